"""The end of a multirun: its runs, ranked by their objective on the val part."""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from fer_lightning.run.resume import STATE, RunState

if TYPE_CHECKING:
    from omegaconf import DictConfig


class MultirunRanking(Callback):
    """Hydra callback that prints the runs of a multirun, best first; an Optuna sweep prints its own summary.

    Each run prints its scores on the test part, by which no setting may be chosen: this ranking is what to choose by.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the ranking."""
        if OmegaConf.select(config, "hydra.sweeper.observers") is None:
            print(ranking(Path(config.hydra.sweep.dir), config.objective, config.objective_mode))


def ranking(folder: Path, objective: str, mode: str) -> str:
    """Return the finished runs of a multirun as lines, best first, each with the overrides in which the runs differ.

    Args:
        folder: The multirun's folder.
        objective: Name of the objective.
        mode: `max` or `min`.
    """
    runs: list[tuple[float, list[str], Path]] = []
    for path in sorted(folder.rglob(STATE)):
        state, given = RunState.read(path.parent), path.with_name(".hydra") / "overrides.yaml"
        if state is not None and state.objective is not None:
            value = state.objective[0] if isinstance(state.objective, tuple) else state.objective
            overrides = list(OmegaConf.load(given)) if given.is_file() else []
            runs.append((value, [str(override) for override in overrides], path.parent))
    sign = -1 if mode == "max" else 1
    runs.sort(key=lambda run: (math.isnan(run[0]), sign * run[0]))
    rows = [
        (value, shlex.join(o for o in overrides if not all(o in other for _, other, _ in runs)), os.path.relpath(run))
        for value, overrides, run in runs
    ]
    width = max((len(differing) for _, differing, _ in rows), default=0)
    title = f"\nRuns by {objective}, best first. Choose by it: test scores that select a setting are optimistic."
    return "\n".join([title, *(f"  {value:6.4f}  {differing:<{width}}  {run}" for value, differing, run in rows)])
