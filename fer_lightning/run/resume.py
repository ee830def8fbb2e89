"""Resuming: which run a folder holds, and the checkpoint that a run continues from.

`train.py --help` needs this module, so torch and NumPy are imported where a checkpoint is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from fer_lightning.config import flatten, plain
from fer_lightning.files import atomic_write, unique_folder
from fer_lightning.overrides import DATA_PATHS, WITHOUT_EFFECT
from fer_lightning.run_folder import last_checkpoint, run_of

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from fer_lightning.data.arrays import FaceArrays
    from fer_lightning.data.protocols.split import Split

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


@dataclass(frozen=True)
class StartPoint:
    """Where a run starts: with a fresh network, or after the last epoch of a checkpoint.

    Attributes:
        state: The earlier run that this one continues under its name in the tracking; None for a new run.
        path: The checkpoint; None for a fresh network.
        epoch: The last epoch that was trained.
        hyperparameters: Those of the checkpoint's module.
        shapes: The tensors of its network's body by name.
        averaged: Whether it holds a moving average beside the trained weights.
    """

    state: RunState | None = None
    path: Path | None = None
    epoch: int = 0
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    averaged: bool = False

    @classmethod
    def find(cls, config: DictConfig, folder: Path, console: Console) -> StartPoint:
        """What `resume` stands for.

        Args:
            config: The composed configuration.
            folder: That of the run.
            console: Tells why `resume=auto` finds nothing to continue.

        Raises:
            ValueError: The folder holds a run of other settings, a row of the results table would be of two recipes, or
                the checkpoint is none that a training can continue from.
        """
        if not config.resume:
            return cls()
        state, wanted, last = RunState.read(folder), settings(config), last_checkpoint(folder)
        same = state is not None and state.settings == wanted
        if config.resume != "auto":
            path = Path(config.resume)
            begun = RunState.read(run_of(path.absolute())) if config.paths.results_dir else None
            if begun and (differ := differences(begun.settings, wanted)):
                raise ValueError(
                    f"resume={path} was begun with other settings ({differ}), and what goes to "
                    f"paths.results_dir={config.paths.results_dir} must be of one recipe: move that run away"
                )
            return cls.read(path, state if same else None)
        if state is None:
            console.print("resume=auto: no earlier run of this configuration was found, this one starts anew")
            return cls()
        if not same:
            raise ValueError(
                f"resume=auto: {folder} holds a run of other settings: {differences(state.settings, wanted)}; "
                "take them again to continue, or another folder to start anew"
            )
        if last.is_file():
            return cls.read(last, state)
        if state.objective is None:
            console.print(f"resume=auto: the run in {folder} did not end an epoch, it starts anew")
        return cls(state)

    @classmethod
    def read(cls, path: Path, state: RunState | None = None) -> StartPoint:
        """After the last epoch of a checkpoint; its tensors are not read, and no code in the file runs.

        Args:
            path: A `last.ckpt`.
            state: The earlier run that continues.

        Raises:
            ValueError: It is not a checkpoint of this project, or lacks what a training continues with.
        """
        from fer_lightning.data.provenance import Provenance
        from fer_lightning.training.checkpoint_io import read_checkpoint

        try:
            saved = read_checkpoint(path, mmap=True)
            given, history = saved["hyper_parameters"], saved["history"]
            if "optimizer_states" not in saved or not (history and isinstance(epoch := history[-1]["epoch"], int)):
                raise ValueError("it holds no state of a training")
            if Provenance.read(given.get("provenance")) is None:
                raise ValueError("its provenance lacks the data or the protocol of its training")
        except ValueError as error:
            raise ValueError(f"resume={path} is not a checkpoint that a run can continue from ({error})") from None
        body = "network.body."
        tensors = saved["state_dict"].items()
        shapes = {key.removeprefix(body): tuple(value.shape) for key, value in tensors if key.startswith(body)}
        return cls(state, path, epoch, given, shapes, "current_model_state" in saved)

    def check_config(self, config: DictConfig, body: nn.Module) -> None:
        """Refuses to continue with another network, optimizer or schedule, or for fewer epochs than were trained.

        Args:
            config: The composed configuration.
            body: The body of its network, with or without memory.

        Raises:
            ValueError: With the options that differ.
        """
        if self.path is None:
            return
        given, named = self.hyperparameters, f"resume={self.path}"
        if self.epoch > config.trainer.max_epochs:
            raise ValueError(
                f"{named} has been trained for {self.epoch} epochs: "
                f"trainer.max_epochs={config.trainer.max_epochs} must be {self.epoch} or more"
            )
        if self.shapes != {key: tuple(value.shape) for key, value in body.state_dict().items()}:
            differ = differences(given["model"], plain(config.model))
            raise ValueError(f"{named} is of another network: model differs in {differ or 'its code'}")
        callbacks = plain(config.get("callbacks") or {})
        if self.averaged and not any(str((part or {}).get("_target_")).endswith(".EMA") for part in callbacks.values()):
            raise ValueError(
                f"{named} holds a moving average beside the trained weights: add callbacks=ema to continue, or give "
                f"model.weights={self.path} to start from the average"
            )
        for part in ("optimizer", "scheduler"):
            before, now = given[part].get("_target_"), config[part]["_target_"]
            if before != now:
                raise ValueError(
                    f"{named} was trained with {part} {before}, which is {now} now; it cannot continue with that"
                )
        # what a state dict holds comes back with it, whatever the configuration says
        held: dict[str, tuple[str, ...]] = {
            "optimizer": (),
            "loss": ("_target_", "class_weights"),
            "model": ("mean", "std"),
        }
        if str(given["scheduler"]["_target_"]).endswith("plateau"):
            held["scheduler"] = ()
        for part, keys in held.items():
            old, new = (
                {k: v for k, v in options.items() if not keys or k in keys}
                for options in (given[part], plain(config[part]))
            )
            self._refuse_changed(part, old, new)
        stored = given["provenance"].get("config")
        for key in ("callbacks", "early_stopping"):
            stored = stored.get(key) if isinstance(stored, Mapping) else None
        if isinstance(stored, Mapping) and callbacks.get("early_stopping"):
            self._refuse_changed("early_stopping", stored, callbacks["early_stopping"])

    def _refuse_changed(self, part: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        if differ := differences(before, now):
            raise ValueError(f"resume={self.path}: {part} differs in {differ}; a checkpoint continues with its own")

    def check_data(self, config: DictConfig, faces: FaceArrays, split: Split, console: Console) -> None:
        """Refuses to continue on data that do not fit, or that it would be measured on after having seen them.

        Args:
            config: The composed configuration.
            faces: The data of the run.
            split: Their parts.
            console: Tells where the checkpoint comes from other data.

        Raises:
            ValueError: The class names or their order differ, the network has seen images that the run selects or
                measures on; or, with `resume=auto`, the data differ.
        """
        from fer_lightning.data.provenance import Provenance, refusal_to_train

        if self.path is None:
            return
        named, classes = f"resume={self.path}", self.hyperparameters["classes"]
        if list(classes) != list(faces.classes):
            raise ValueError(
                f"{named} knows the classes {', '.join(classes)}; "
                f"{faces.name} has {', '.join(faces.classes)}, and their order counts"
            )
        origin = Provenance.read(self.hyperparameters["provenance"])
        assert origin is not None  # `read` refuses an unknown one
        changed = origin.data_fingerprint != faces.fingerprint
        if changed and config.resume == "auto":
            raise ValueError(
                f"resume=auto: the data have changed since {self.path} was written; leave it out to start anew, "
                f"or give {named} to continue with other data"
            )
        # a leaky run that is resumed remains the leaky run that it is
        if not origin.is_of(faces, split) and (reason := refusal_to_train(origin, faces, split)):
            raise ValueError(f"{named} {reason}; start anew, or keep the data and the protocol of its training")
        if changed:
            console.print(f"[yellow]{self.path} was trained on other data than {faces.name} here.[/]")
