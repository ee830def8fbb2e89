"""An observer that writes down what it hears."""

from pathlib import Path

import optuna


class Diary:
    """One line an event, in a file.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def _write(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(line + "\n")

    def on_study_start(self, study: optuna.Study) -> None:
        """Note the name."""
        self._write(f"start {study.study_name}")

    def on_trial_end(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Note the number and the state, then fail: a sweep must survive it."""
        self._write(f"trial {trial.number} {trial.state.name}")
        raise OSError("no ink")

    def on_study_end(self, study: optuna.Study) -> None:
        """Note how many there were."""
        self._write(f"end {len(study.trials)}")
