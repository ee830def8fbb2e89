"""Which run a folder holds, and whether it is the same one. Imports nothing heavy: `train.py` needs it first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fer_lightning.config import flatten, plain
from fer_lightning.files import atomic_write, unique_folder
from fer_lightning.overrides import DATA_PATHS, WITHOUT_EFFECT
from fer_lightning.run_folder import run_of

STATE = ".resume.json"
"""The file in a run's folder that says which run it is."""


@dataclass(frozen=True)
class RunState:
    """Which run a folder holds.

    Attributes:
        settings: What decides its result (`settings`).
        objective: What it came to, one number or two; None while it has not ended.
    """

    settings: dict[str, Any]
    objective: float | tuple[float, float] | None = None

    @classmethod
    def read(cls, folder: Path) -> RunState | None:
        """The state of the run in a folder, None where there is none that can be read."""
        try:
            read = json.loads((folder / STATE).read_text("utf-8"))
            ended, kept = read["objective"], read["settings"]
            numbers = ended if isinstance(ended, list) else [ended]
            if not isinstance(kept, dict) or not all(isinstance(n, (int, float, type(None))) for n in numbers):
                return None
            return cls(kept, tuple(ended) if isinstance(ended, list) else ended)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def write(self, folder: Path) -> None:
        """Writes it, whole or not at all."""
        with atomic_write(folder / STATE) as aside:
            aside.write_text(json.dumps(asdict(self)), "utf-8")


def settings(config: DictConfig) -> dict[str, Any]:
    """All of a configuration that decides what comes out: two runs with equal settings on equal data are one run."""
    kept = {str(name): plain(config[name]) for name in config if name not in ("hydra", "paths", *WITHOUT_EFFECT)}
    elsewhere = ("data.source", *DATA_PATHS, *WITHOUT_EFFECT)
    kept["data"] = {key: value for key, value in kept["data"].items() if f"data.{key}" not in elsewhere} | {
        "source": plain(config.data.source["_target_"])
    }
    decisive: dict[str, Any] = json.loads(json.dumps(kept))
    return decisive


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Lists the differences of two settings: `optimizer.lr 0.1 (now 0.2), ...`."""
    old, new = flatten(before, targets=True), flatten(now, targets=True)
    missing = "nothing"
    return ", ".join(
        f"{key} {old.get(key, missing)} (now {new.get(key, missing)})"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, missing) != new.get(key, missing)
    )


def last_folder(outputs: Path, wanted: Mapping[str, Any]) -> Path | None:
    """The newest run of those settings in `outputs/DAY/RUN`, finished or not."""
    states = sorted(outputs.glob(f"*/*/{STATE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in states:
        state = RunState.read(path.parent)
        if state is not None and state.settings == wanted:
            return path.parent
    return None


def run_folder(fresh: str, config: DictConfig) -> str:
    """Hydra's output folder: a new one, or with `resume` that of the run that goes on.

    Args:
        fresh: The folder of a new run, `outputs/DAY/RUN`.
        config: The composed configuration.
    """
    resume = config.get("resume")
    if resume == "auto":
        return str(last_folder(Path(fresh).parents[1], settings(config)) or unique_folder(fresh))
    if isinstance(resume, str) and Path(resume).parent.name == "checkpoints":
        return str(run_of(Path(resume)))
    return unique_folder(fresh)


def state_to_resume(folder: Path, wanted: Mapping[str, Any]) -> RunState | None:
    """The state of the run in a folder that `resume=auto` goes on with, None where there is none.

    Raises:
        ValueError: The folder holds a run of other settings.
    """
    state = RunState.read(folder)
    if state is not None and state.settings != wanted:
        raise ValueError(
            f"resume=auto: {folder} holds a run of other settings: {differences(state.settings, wanted)}; "
            "take them again to go on, or another folder to start anew"
        )
    return state
