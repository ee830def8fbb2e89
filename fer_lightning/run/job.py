"""What Hydra knows of the current run: its choices, overrides and trial."""

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
"""The groups whose chosen option is logged by name, so that runs can be searched by `params.model`."""


@dataclass(frozen=True)
class Job:
    """Hydra's knowledge of this run; empty where the config was composed without it.

    Attributes:
        choices: The option chosen of each group.
        overrides: What was typed, for example `optimizer.lr=1e-4`; without `resume=auto`, which changes no result.
        sweep_dir: The multirun's folder, or None.
        trial: The trial that this run is, where Optuna sweeps.
        run_dir: What was typed of `hydra.run.dir`.
        sources: What was typed of where configurations are: `--config-dir=DIR`, `--config-name=NAME`.
        in_turn: Whether it is a job of a plain multirun, which takes its jobs one after another in this process.
    """

    choices: Mapping[str, str]
    overrides: tuple[str, ...]
    sweep_dir: Path | None
    trial: optuna.Trial | None = None
    run_dir: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    in_turn: bool = False

    @classmethod
    def current(cls) -> Job:
        """The job that runs now."""
        if not HydraConfig.initialized():
            return cls({}, (), None)
        hydra = HydraConfig.get()
        choices = {k: str(v) for k, v in hydra.runtime.choices.items() if "/" not in k and v is not None}
        sweep = Path(hydra.sweep.dir).absolute() if hydra.mode == RunMode.MULTIRUN else None
        typed = tuple(word for word in hydra.overrides.task if word != "resume=auto")
        run_dir = tuple(word for word in hydra.overrides.hydra if word.startswith("hydra.run.dir="))
        basic = all(hydra.runtime.choices.get(f"hydra/{part}") == "basic" for part in ("sweeper", "launcher"))
        in_turn = bool(sweep) and basic
        return cls(choices, typed, sweep, current_trial(), run_dir, typed_sources(hydra), in_turn=in_turn)

    @property
    def words(self) -> tuple[str, ...]:
        """The command line that repeats it, behind `train.py`."""
        return self.sources + self.overrides

    def resume_command(self, *, begun: bool) -> str | None:
        """The command that goes on with this run or its multirun; None where Optuna or another launcher says it.

        Args:
            begun: Whether the run has saved an epoch; else one that started from a checkpoint starts from it again.
        """
        if self.in_turn and self.sweep_dir:
            typed = drop_overrides(sys.argv[1:], "resume", "hydra.sweep.dir")
            place = f"hydra.sweep.dir={os.path.relpath(self.sweep_dir)}"
            return train_command([*typed, place, "resume=auto"])
        if self.sweep_dir:
            return None
        typed = drop_overrides(self.overrides, "resume")
        if not begun and len(typed) < len(self.overrides):
            return train_command([*self.words, *self.run_dir])
        return train_command([*self.sources, *typed, *self.run_dir, "resume=auto"])

    def without_local(self) -> DictConfig | None:
        """The configuration that its overrides and its data option give without conf/local; None without Hydra."""
        if not HydraConfig.initialized():
            return None
        typed = drop_overrides(self.overrides, "local")
        if (option := self.choices.get("data")) and value_of(typed, "data") is None:
            typed.append(f"data={option}")
        added = [word for word in self.sources if word.startswith("hydra.")]
        return compose(HydraConfig.get().job.config_name, [*typed, *added, "~local"])

    @property
    def label(self) -> str:
        """Experiment or model: what a person calls this run first."""
        return self.choices.get("experiment") or self.choices.get("model") or "run"


def typed_sources(hydra: HydraConf) -> tuple[str, ...]:
    """The words of a command line that chose other configuration files than those of `CONF`, from Hydra's own."""
    paths = {source.provider: source.path for source in hydra.runtime.config_sources}
    main, added, name = paths.get("main"), paths.get("command-line"), hydra.job.config_name
    flags = [f"--config-path={os.path.relpath(main)}"] if main and Path(main).resolve() != CONF.resolve() else []
    flags += [f"--config-dir={os.path.relpath(added)}"] if added else []
    flags += [f"--config-name={name}"] if name != "config" else []
    return (*flags, *(word for word in hydra.overrides.hydra if key_of(word) == "hydra.searchpath"))


def run_name(job: Job, seed: int) -> str:
    """A name that tells runs apart: what was trained, what was changed, which seed."""
    elsewhere = ("experiment", "search", "seed", "paths", "tracking", "hydra", "resume", *DATA_PATHS)
    named = "model" if job.label == job.choices.get("model") else ""
    changed = [o.lstrip("+") for o in drop_overrides(job.overrides, *elsewhere) if key_of(o) != named]
    number = [f"#{job.trial.number}"] if job.trial else []
    return " ".join([job.label, *number, *changed, f"seed={seed}"])
