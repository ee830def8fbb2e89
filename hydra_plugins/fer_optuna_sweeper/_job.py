"""Runs a job as its trial, in the job's process: sends heartbeats and records the result."""

from __future__ import annotations

import gc
import logging
import math
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    import optuna

    from hydra_plugins.fer_optuna_sweeper._study import StudyAddress

log = logging.getLogger(__name__)
_current: optuna.Trial | None = None


def current_trial() -> optuna.Trial | None:
    """Return the trial that this process runs, None outside a sweep.

    It has `report(value, step)`, `should_prune()`, `set_user_attr(key, value)`, `number`, `params` and
    `study`. Optuna does not prune with several objectives: if `len(trial.study.directions) > 1`,
    `report` and `should_prune` raise NotImplementedError.
    """
    return _current


class TrialTask:
    """Wraps the app's task function for a launcher, which may send it to another process.

    The result is written to the study in the job's own process, as soon as the job ends: it depends
    neither on the other jobs of the launch nor on the sweep's process.

    Args:
        task: The app's task function.
    """

    def __init__(self, task: TaskFunction) -> None:
        self.task = task
        self.address: StudyAddress | None = None  # set when the sweep starts

    def __call__(self, config: DictConfig) -> Any:
        """Run the job as the trial with the job's number.

        Raises:
            RuntimeError: The trial failed; carries its message, so that Hydra's callbacks see the failure.
        """
        global _current
        import optuna

        from hydra_plugins.fer_optuna_sweeper._study import WORKER, Heartbeat, tell

        assert self.address is not None
        number = int(HydraConfig.get().job.num)
        study = self.address.open()
        trial_id = study.get_trials(deepcopy=False)[number]._trial_id
        trial = optuna.Trial(study, trial_id)
        result, state, message = None, optuna.trial.TrialState.COMPLETE, ""
        try:
            trial.set_user_attr(WORKER, f"{socket.gethostname()}:{os.getpid()}")
            trial.set_user_attr("output_dir", str(HydraConfig.get().runtime.output_dir))
        except optuna.exceptions.UpdateFinishedTrialError:
            raise RuntimeError(f"trial {number} was marked as lost before its job started") from None
        _current = trial
        with Heartbeat(self.address, [trial_id]):
            try:
                result = self.task(config)
                values = _objective_values(result, len(study.directions))
            except optuna.TrialPruned:
                state, values = optuna.trial.TrialState.PRUNED, None
            except Exception as error:
                state, values = optuna.trial.TrialState.FAIL, None
                message = f"{type(error).__name__}: {error}"[:2000]
                if isinstance(error, HydraException):  # a user error: its message needs no traceback
                    log.error("trial %d failed: %s", number, error)
                else:
                    log.exception("trial %d failed", number)
            finally:
                _current = None
            gc.collect()  # free the job's memory before the next job needs it
            tell(study, self.address, number, state, values, message)
        if message:  # a new error: the job's own one keeps its frames alive and may not be picklable
            raise RuntimeError(f"trial {number}: {message}")
        return result


def _objective_values(result: Any, count: int) -> list[float]:
    """Return the objective values of a job as floats.

    Raises:
        ValueError: The result is not `count` finite numbers.
    """
    needed = "one number" if count == 1 else f"{count} numbers"
    parts = list(result) if isinstance(result, Sequence) and not isinstance(result, str) else [result]
    try:
        values = [float(part) for part in parts]
    except (TypeError, ValueError):
        raise ValueError(f"the job returned {result!r}, but the study needs {needed}") from None
    if len(values) != count:
        raise ValueError(f"the job returned {result!r}, but the study needs {needed}")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"the job returned {result!r}, which is not finite")
    return values
