"""Protects the folder of a run from other processes and from runs with other settings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from fer_lightning.run.resume import RunState, differences, settings
from fer_lightning.run_folder import last_checkpoint


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for one process; the lock is released when the process ends, even if killed.

    If the run fails before it starts, for example because of a wrong setting, the folder is removed.

    Raises:
        ValueError: Another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            try:
                yield
            except BaseException:
                if {path.name for path in folder.iterdir()} <= {".lock", ".hydra", "train.log"}:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
    except Timeout:
        raise ValueError(
            f"{folder} belongs to a run that another process is training now: give this run another folder, or "
            "start it again later"
        ) from None


def refuse_overwrite(folder: Path, config: DictConfig) -> None:
    """Refuse to overwrite a run that `resume` does not continue.

    Raises:
        ValueError: The folder holds such a run.
    """
    state, last = RunState.read(folder), last_checkpoint(folder)
    if config.resume and Path(config.resume).resolve().parent == last.resolve().parent:
        return
    if state is not None and config.resume == "auto":  # `StartPoint.find` compares the settings
        return
    if not last.exists() and (state is None or state.objective is None):  # no epoch was completed
        return
    if state is not None and state.settings == settings(config):
        raise ValueError(f"{folder} already holds this run: add resume=auto to continue it, or give another folder")
    differ = f", with {differences(state.settings, settings(config))}" if state else ""
    raise ValueError(f"{folder} holds another run{differ}: give this run another folder")
