"""The record of a run: what it was, what came out, and where it is published."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fer_lightning.config import plain
from fer_lightning.data.datamodule import FERDataModule
from fer_lightning.files import check_writable
from fer_lightning.overrides import DATA_PATHS, effective_overrides, overrides_of, train_command
from fer_lightning.reporting import records
from fer_lightning.reporting.environment import commit, versions
from fer_lightning.run.job import Job, run_name
from fer_lightning.run.resume import differences, settings
from fer_lightning.training.metrics import Scores


def place_of_result(config: DictConfig, job: Job) -> Path | None:
    """The file in `paths.results_dir` that the run's record goes to, None without such a folder.

    Raises:
        ValueError: The run is no experiment, conf/local changes its recipe, it measures another part than `test` or not
            all of it, the file holds what another command measured, or it could not be written.
    """
    if not config.paths.results_dir:
        return None
    if not job.choices.get("experiment"):
        raise ValueError("paths.results_dir takes rows of the results table: add experiment=NAME")
    if config.eval.split != "test":
        raise ValueError(f"paths.results_dir takes what was measured on test alone; eval.split is {config.eval.split}")
    if not (isinstance(limit := config.trainer.limit_test_batches, float) and limit == 1):
        raise ValueError(f"paths.results_dir takes a whole test part; trainer.limit_test_batches is {limit}")
    refuse_local_recipe(config, job)
    path = Path(config.paths.results_dir) / f"{job.choices['experiment']}_seed{config.seed}.json"
    check_writable(path, f"paths.results_dir={config.paths.results_dir}")
    if path.is_file():
        before = overrides_of(records.read_record(path, "command")["command"])
        if effective_overrides(before) != effective_overrides(job.words):
            raise ValueError(
                f"{path} holds what `python train.py {shlex.join(before)}` measured: move it away, or give this run "
                "another paths.results_dir"
            )
    return path


def refuse_local_recipe(config: DictConfig, job: Job) -> None:
    """Refuses settings of conf/local that the record's command would not repeat; which data are read is in the record.

    Raises:
        ValueError: There are some; the message names them.
    """
    if (shared := job.without_local()) is None:
        return
    for key in DATA_PATHS:
        if OmegaConf.select(config, key) is not None:
            OmegaConf.update(shared, key, OmegaConf.select(config, key))
    if differ := differences(settings(shared), settings(config)):
        raise ValueError(
            f"conf/local changes what the record's `{train_command(job.words)}` trains: {differ}; type these "
            "settings, or take them out of conf/local, for a record in paths.results_dir"
        )


def recorded_parts(scores: Mapping[str, Scores], kaggle: Scores | None) -> dict[str, Any]:
    """The measured parts as a record holds them."""
    parts = {part_name(part): row for part, row in scores.items()} | ({"kaggle_test": kaggle} if kaggle else {})
    return {part: records.recorded_scores(row) for part, row in parts.items()}


def part_name(part: str) -> str:
    """`measured_val` for another part than test: what training logs of train and val stays beside it."""
    return part if part.startswith("test") else f"measured_{part}"


def description(config: DictConfig, job: Job, datamodule: FERDataModule) -> dict[str, Any]:
    """The head of a record: what the run is, before it has run."""
    faces, split = datamodule.faces, datamodule.split
    return {
        "experiment": job.choices.get("experiment"),
        "name": run_name(job, config.seed),
        "seed": config.seed,
        "data": faces.name,
        "data_fingerprint": faces.fingerprint,
        "synthetic": faces.is_synthetic,
        "protocol": split.name,
        "leaky": split.is_leaky,
        "pictures": {part: len(index) for part, index in split.indices.items()},
        "evaluation": plain(config.eval),
        "command": train_command(job.words),
        "commit": commit(),
        "versions": versions(),
    }
