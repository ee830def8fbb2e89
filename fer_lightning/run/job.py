"""Hydra's view of the current run: its chosen options, overrides and trial."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fer_lightning.config import CONF
from fer_lightning.overrides import DATA_PATHS, drop_overrides, key_of, train_command, value_of
from hydra_plugins.fer_optuna_sweeper import current_trial

if TYPE_CHECKING:
    import optuna

GROUPS = (
    "data",
    "protocol",
    "augmentation",
    "model",
    "loss",
    "optimizer",
    "scheduler",
    "finetune",
    "trainer",
    "callbacks",
    "eval",
    "experiment",
    "search",
)
"""Groups whose chosen option is logged by name, so that runs can be searched by `params.model`."""


@dataclass(frozen=True)
class Job:
    """Hydra's view of this run; empty if the configuration was composed without Hydra's runtime.

    Attributes:
        choices: The chosen option of each group.
        overrides: The given overrides, for example `optimizer.lr=1e-4`; without `resume=auto`, which changes no result.
        sweep_dir: The multirun's folder, None outside of a multirun.
        trial: The Optuna trial of this run, None outside of an Optuna sweep.
        run_dir: The given override of `hydra.run.dir`, if any.
        sources: The given choice of configuration files: `--config-dir=DIR`, `--config-name=NAME`.
        sequential: Whether it belongs to a basic multirun, which runs its jobs one after another in this process.
    """

    choices: Mapping[str, str]
    overrides: tuple[str, ...]
    sweep_dir: Path | None
    trial: optuna.Trial | None = None
    run_dir: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    sequential: bool = False

    @classmethod
    def current(cls) -> Job:
        """Return the job that runs now."""
        if not HydraConfig.initialized():
            return cls({}, (), None)
        hydra = HydraConfig.get()
        choices = {k: str(v) for k, v in hydra.runtime.choices.items() if "/" not in k and v is not None}
        sweep = Path(hydra.sweep.dir).absolute() if hydra.mode == RunMode.MULTIRUN else None
        overrides = tuple(override for override in hydra.overrides.task if override != "resume=auto")
        run_dir = tuple(override for override in hydra.overrides.hydra if override.startswith("hydra.run.dir="))
        basic = all(hydra.runtime.choices.get(f"hydra/{part}") == "basic" for part in ("sweeper", "launcher"))
        sequential = bool(sweep) and basic
        return cls(choices, overrides, sweep, current_trial(), run_dir, config_sources(hydra), sequential)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of `train.py` that repeat the run."""
        return self.sources + self.overrides

    def resume_command(self, *, has_checkpoint: bool) -> str | None:
        """Return the command that continues this run or its multirun, None if Optuna or another launcher gives it.

        Args:
            has_checkpoint: Whether the run has saved an epoch; if not, `resume=FILE` is given again.
        """
        if self.sequential and self.sweep_dir:
            arguments = drop_overrides(sys.argv[1:], "resume", "hydra.sweep.dir")
            folder = f"hydra.sweep.dir={os.path.relpath(self.sweep_dir)}"
            return train_command([*arguments, folder, "resume=auto"])
        if self.sweep_dir:
            return None
        overrides = drop_overrides(self.overrides, "resume")
        if not has_checkpoint and len(overrides) < len(self.overrides):
            return train_command([*self.arguments, *self.run_dir])
        return train_command([*self.sources, *overrides, *self.run_dir, "resume=auto"])

    def without_local(self) -> DictConfig | None:
        """Compose its overrides and its data option without conf/local; None without Hydra."""
        if not HydraConfig.initialized():
            return None
        overrides = drop_overrides(self.overrides, "local")
        if (option := self.choices.get("data")) and value_of(overrides, "data") is None:
            overrides.append(f"data={option}")
        searched = [override for override in self.sources if override.startswith("hydra.")]
        return compose(HydraConfig.get().job.config_name, [*overrides, *searched, "~local"])

    @property
    def label(self) -> str:
        """The experiment, else the model: the first part of the run's name."""
        return self.choices.get("experiment") or self.choices.get("model") or "run"


def config_sources(hydra: HydraConf) -> tuple[str, ...]:
    """Return the arguments that chose other configuration files than those of `CONF`."""
    paths = {source.provider: source.path for source in hydra.runtime.config_sources}
    main, added, name = paths.get("main"), paths.get("command-line"), hydra.job.config_name
    flags = [f"--config-path={os.path.relpath(main)}"] if main and Path(main).resolve() != CONF.resolve() else []
    flags += [f"--config-dir={os.path.relpath(added)}"] if added else []
    flags += [f"--config-name={name}"] if name != "config" else []
    return (*flags, *(word for word in hydra.overrides.hydra if key_of(word) == "hydra.searchpath"))


def run_name(job: Job, seed: int) -> str:
    """Return the display name of a run: its experiment or model, the changed settings and the seed."""
    omitted = ("experiment", "search", "seed", "paths", "tracking", "hydra", "resume", *DATA_PATHS)
    label_key = "model" if job.label == job.choices.get("model") else ""
    changed = [o.lstrip("+") for o in drop_overrides(job.overrides, *omitted) if key_of(o) != label_key]
    number = [f"#{job.trial.number}"] if job.trial else []
    return " ".join([job.label, *number, *changed, f"seed={seed}"])
