"""Runs in each job's process: finds its trial, sends its heartbeat, records its end."""

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
    """The trial that this process runs, None outside a sweep.

    It has `report(value, step)`, `should_prune()`, `set_user_attr(key, value)`, `number`, `params` and
    `study`. Optuna knows no pruning with several objectives: where `len(trial.study.directions) > 1`,
    `report` and `should_prune` raise NotImplementedError.
    """
    return _current


class TrialTask:
    """The app's task function for a launcher, which may send it to another process.

    The study is told here, in the job's own process, so that a result is safe at once: neither the
    other jobs of a launch nor the life of the sweep's process matter to it.

    Args:
        task: The app's own function.
    """

    def __init__(self, task: TaskFunction) -> None:
        self.task = task
        self.address: StudyAddress | None = None  # set when the sweep begins

    def __call__(self, config: DictConfig) -> Any:
        """Run the job as the trial whose number is the job's.

        Raises:
            RuntimeError: With the trial's message, where it failed, so that Hydra's callbacks know.
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
            raise RuntimeError(f"trial {number} was given up while its job waited to start") from None
        _current = trial
        with Heartbeat(self.address, [trial_id]):
            try:
                result = self.task(config)
                values = _values(result, len(study.directions))
            except optuna.TrialPruned:
                state, values = optuna.trial.TrialState.PRUNED, None
            except Exception as error:
                state, values = optuna.trial.TrialState.FAIL, None
                message = f"{type(error).__name__}: {error}"[:2000]
                if isinstance(error, HydraException):  # a mistake that is told in a sentence
                    log.error("trial %d failed: %s", number, error)
                else:
                    log.exception("trial %d failed", number)
            finally:
                _current = None
            gc.collect()  # what the job held must not wait for the next one to need it
            tell(study, self.address, number, state, values, message)
        if message:  # raised anew: the job's own error keeps its frames alive, and may not survive a pickle
            raise RuntimeError(f"trial {number}: {message}")
        return result


def _values(result: Any, count: int) -> list[float]:
    """The objectives that a job returned.

    Raises:
        ValueError: They are not so many finite numbers.
    """
    needed = "one number" if count == 1 else f"{count} numbers"
    parts = list(result) if isinstance(result, Sequence) and not isinstance(result, str) else [result]
    try:
        values = [float(part) for part in parts]
    except (TypeError, ValueError):
        raise ValueError(f"the job returned {result!r}, the study needs {needed}") from None
    if len(values) != count:
        raise ValueError(f"the job returned {result!r}, the study needs {needed}")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"the job returned {result!r}, which is not finite")
    return values
