"""Lightning callbacks: checkpoints and the progress bar in the terminal."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from fer_lightning.training.module import FERModule


def checkpoints(folder: Path, objective: str, mode: str) -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """Callbacks that write `best.ckpt`, by the objective on the val part, and `last.ckpt` at the end of each epoch."""
    common: dict[str, Any] = {
        "dirpath": folder,
        "save_on_train_epoch_end": True,
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
    }
    best = CheckpointThatMoves(filename="best", monitor=objective, mode=mode, **common)
    return best, CheckpointThatMoves(filename="last", **common)


class CheckpointThatMoves(ModelCheckpoint):
    """A ModelCheckpoint that keeps the best score when a resumed run's folder has another path, as in a container.

    If the folder does not hold the best epoch's file, as a new folder for an old checkpoint, the best score is reset.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, with its paths in the current folder."""

        def in_folder(path: str) -> str:
            return os.path.join(str(self.dirpath), os.path.basename(path)) if path else path

        if not os.path.isfile(in_folder(state_dict["best_model_path"])):
            return
        paths = {key: in_folder(state_dict[key]) for key in state_dict if key.endswith("_path")}
        best = {in_folder(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": str(self.dirpath)})


class TrainingProgress(Callback):
    """One progress bar over the whole training with its remaining time, and one line per epoch.

    Args:
        objective: Metric whose best value so far is shown beside the bar, for example `val/accuracy`.
        mode: `max` or `min`.
        console: Console to print to.
    """

    def __init__(self, objective: str, mode: str, console: Console) -> None:
        self.objective = objective
        self.best: tuple[float, int] | None = None
        self._seconds_before = 0.0
        self._started: float | None = None
        self._better = max if mode == "max" else min
        self._console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the bar, for a resumed run at its current step."""
        self._started = time.monotonic()
        if not trainer.is_global_zero:
            return
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[score]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self._console,
            transient=True,
            expand=True,
            refresh_per_second=2,
        )
        total = int(trainer.estimated_stepping_batches)
        self._task = self._progress.add_task("epoch", total=total, completed=trainer.global_step, score="")
        self._progress.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch."""
        if self._progress is not None:
            name = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._progress.update(self._task, description=name)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's line and show the best objective beside the bar."""
        if self._progress is None or trainer.sanity_checking:
            return
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epoch = trainer.current_epoch + 1
        value = scores.get(self.objective)
        if value is not None:
            if self.best is None or self._better(value, self.best[0]) == value != self.best[0]:
                self.best = (value, epoch)
            # the epoch's own value is in its line
            self._progress.update(self._task, score=f"best {self.objective} {self.best[0]:.4f}, epoch {self.best[1]}")
        mark = "  [green]best[/green]" if self.best and self.best[1] == epoch else ""
        loss = cast("FERModule", pl_module).train_loss
        self._console.print(
            f"epoch {epoch:>{len(str(trainer.max_epochs))}}/{trainer.max_epochs}  loss {loss:.3f}  "
            f"val: loss {scores['val/loss']:.3f}, accuracy {scores['val/accuracy']:.1%}, "
            f"macro F1 {scores['val/macro_f1']:.1%}{mark}",  # short enough for 80 columns
            highlight=False,
        )

    @property
    def seconds(self) -> float:
        """Training time so far in seconds, including the time before a resume."""
        return self._seconds_before + (time.monotonic() - self._started if self._started is not None else 0.0)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar."""
        self._seconds_before, self._started = self.seconds, None
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the bar, so that only the error message remains."""
        self._stop()

    def state_dict(self) -> dict[str, Any]:
        """Return the best score and the training time so far."""
        return {"objective": self.objective, "best": self.best, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score and the training time."""
        if state_dict.get("objective") == self.objective:
            self.best = state_dict["best"]
        self._seconds_before = state_dict.get("seconds", 0.0)

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.live.stop()  # Progress.stop() prints an empty line outside of a terminal
            self._progress = None
