"""The record of a run: its settings, its scores, and where it is published."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fer_lightning.config import to_container
from fer_lightning.data.datamodule import FERDataModule
from fer_lightning.files import check_writable
from fer_lightning.overrides import DATA_PATHS, effective_overrides, overrides_of, train_command
from fer_lightning.reporting import records
from fer_lightning.reporting.environment import COMMIT, versions
from fer_lightning.run.job import Job, run_name
from fer_lightning.run.resume import differences, settings
from fer_lightning.training.metrics import Scores


def result_path(config: DictConfig, job: Job) -> Path | None:
    """Return the file in `paths.results_dir` for the record of the run, None if `paths.results_dir` is not set.

    Raises:
        ValueError: The run has no experiment, conf/local changes its settings, it measures another part than `test` or
            not all of it, the file holds the record of another command, or it cannot be written.
    """
    if not config.paths.results_dir:
        return None
    if not job.choices.get("experiment"):
        raise ValueError("paths.results_dir holds the rows of the results table: add experiment=NAME")
    if config.eval.split != "test":
        raise ValueError(f"paths.results_dir accepts only scores on test; eval.split is {config.eval.split}")
    if not (isinstance(limit := config.trainer.limit_test_batches, float) and limit == 1):
        raise ValueError(
            f"paths.results_dir accepts only scores on the whole test part; trainer.limit_test_batches is {limit}"
        )
    check_local_settings(config, job)
    path = Path(config.paths.results_dir) / records.record_name(job.choices["experiment"], config.seed)
    check_writable(path, f"paths.results_dir={config.paths.results_dir}")
    if path.is_file():
        earlier = overrides_of(records.read_record(path, "command")["command"])
        if effective_overrides(earlier) != effective_overrides(job.arguments):
            raise ValueError(
                f"{path} holds the record of `python train.py {shlex.join(earlier)}`: move it away, or give this run "
                "another paths.results_dir"
            )
    return path


def check_local_settings(config: DictConfig, job: Job) -> None:
    """Refuse settings of conf/local that the recorded command would not repeat; the paths of the data may differ.

    Raises:
        ValueError: There are such settings; the message names them.
    """
    if (shared := job.without_local()) is None:
        return
    for key in DATA_PATHS:
        if OmegaConf.select(config, key) is not None:
            OmegaConf.update(shared, key, OmegaConf.select(config, key))
    if differ := differences(settings(shared), settings(config)):
        raise ValueError(
            f"conf/local changes what the recorded command `{train_command(job.arguments)}` trains: {differ}; for a "
            "record in paths.results_dir, give these settings as overrides or remove them from conf/local"
        )


def recorded_parts(scores: Mapping[str, Scores], kaggle: Scores | None) -> dict[str, Any]:
    """Return the scores of each measured part in the format of a record."""
    parts = {part_name(part): row for part, row in scores.items()} | ({"kaggle_test": kaggle} if kaggle else {})
    return records.scores_by_part(parts)


def part_name(part: str) -> str:
    """Return the record's key of a part; `measured_PART` for others than test, as training logs `val`."""
    return part if part.startswith("test") else f"measured_{part}"


def description(config: DictConfig, job: Job, datamodule: FERDataModule) -> dict[str, Any]:
    """Return the head of a record: what is known of a run before it is trained."""
    faces, split = datamodule.faces, datamodule.split
    return {
        "experiment": job.choices.get("experiment"),
        "name": run_name(job, config.seed),
        "seed": config.seed,
        "data": faces.name,
        "data_fingerprint": faces.fingerprint,
        "votes_fingerprint": faces.votes_fingerprint,
        "synthetic": faces.is_synthetic,
        "protocol": split.name,
        "leaky": split.is_leaky,
        "images": {part: len(index) for part, index in split.indices.items()},
        "evaluation": to_container(config.eval),
        "settings": {name: value for name, value in settings(config).items() if name != "seed"},
        "command": train_command(job.arguments),
        "commit": COMMIT,
        "versions": versions(),
    }
