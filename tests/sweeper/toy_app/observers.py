"""An observer that logs its events to a file."""

from pathlib import Path

import optuna


class EventLog:
    """Writes one line per event to a file.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def _write(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(line + "\n")

    def on_study_start(self, study: optuna.Study) -> None:
        """Log the study's name."""
        self._write(f"start {study.study_name}")

    def on_trial_end(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Log the number and the state, then raise: the sweep must continue."""
        self._write(f"trial {trial.number} {trial.state.name}")
        raise OSError("simulated error")

    def on_study_end(self, study: optuna.Study) -> None:
        """Log the number of trials."""
        self._write(f"end {len(study.trials)}")
