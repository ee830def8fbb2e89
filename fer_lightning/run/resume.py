"""Resuming: the state of the run in a folder, and the checkpoint that a run continues from.

`train.py --help` imports this module, so torch and NumPy are imported only where a checkpoint is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from fer_lightning.config import flatten, to_container
from fer_lightning.files import atomic_write, unique_folder
from fer_lightning.overrides import DATA_PATHS, WITHOUT_EFFECT
from fer_lightning.run_folder import in_run_folder, last_checkpoint, run_of

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from fer_lightning.data.arrays import FaceArrays
    from fer_lightning.data.protocols.split import Split

STATE = ".resume.json"
"""The file in a run's folder that identifies the run."""


@dataclass(frozen=True)
class RunState:
    """The identity and the result of the run in a folder.

    Attributes:
        settings: The settings that determine its result (`settings`).
        objective: Its objective, one number or two; None until it has finished.
    """

    settings: dict[str, Any]
    objective: float | tuple[float, float] | None = None

    @classmethod
    def read(cls, folder: Path) -> RunState | None:
        """Read the state of the run in a folder, None if it is missing or damaged."""
        try:
            stored = json.loads((folder / STATE).read_text("utf-8"))
            objective, settings = stored["objective"], stored["settings"]
            numbers = objective if isinstance(objective, list) else [objective]
            if not isinstance(settings, dict) or not all(isinstance(n, (int, float, type(None))) for n in numbers):
                return None
            return cls(settings, tuple(objective) if isinstance(objective, list) else objective)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def write(self, folder: Path) -> None:
        """Write the state atomically."""
        with atomic_write(folder / STATE) as temporary:
            temporary.write_text(json.dumps(asdict(self)), "utf-8")


def settings(config: DictConfig) -> dict[str, Any]:
    """Return the settings that determine a result: two runs with equal settings on equal data are the same run."""
    chosen = {
        str(name): to_container(config[name]) for name in config if name not in ("hydra", "paths", *WITHOUT_EFFECT)
    }
    omitted = ("data.source", *DATA_PATHS, *WITHOUT_EFFECT)
    chosen["data"] = {key: value for key, value in chosen["data"].items() if f"data.{key}" not in omitted} | {
        "source": to_container(config.data.source["_target_"])
    }
    serialized: dict[str, Any] = json.loads(json.dumps(chosen))
    return serialized


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """List the differences of two settings: `optimizer.lr 0.1 (now 0.2), ...`."""
    old, new = flatten(before, targets=True), flatten(now, targets=True)
    missing = "nothing"
    return ", ".join(
        f"{key} {old.get(key, missing)} (now {new.get(key, missing)})"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, missing) != new.get(key, missing)
    )


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """List the `differences` of two settings, without the options that a component of both has in one only.

    Such an option was added to, or removed from, the code in between, which changes no recipe by itself; a component
    that is missing in one is a difference.
    """
    old, new = flatten(before, targets=True), flatten(now, targets=True)

    def known(options: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
        components = {key.rpartition(".")[0] for key in others}
        return {k: value for k, value in options.items() if k in others or k.rpartition(".")[0] not in components}

    return differences(known(old, new), known(new, old))


def last_folder(outputs: Path, wanted: Mapping[str, Any]) -> Path | None:
    """Return the newest run with these settings in `outputs/DAY/RUN`, finished or not; None if there is none."""
    states = sorted(outputs.glob(f"*/*/{STATE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in states:
        state = RunState.read(path.parent)
        if state is not None and state.settings == wanted:
            return path.parent
    return None


def run_folder(fresh: str, config: DictConfig) -> str:
    """Return Hydra's output folder: a new one, or with `resume` that of the run to continue.

    Args:
        fresh: The folder of a new run, `outputs/DAY/RUN`.
        config: The composed configuration.
    """
    resume = config.get("resume")
    if resume == "auto":
        return str(last_folder(Path(fresh).parents[1], settings(config)) or unique_folder(fresh))
    if isinstance(resume, str) and in_run_folder(Path(resume)):
        return str(run_of(Path(resume)))
    return unique_folder(fresh)


@dataclass(frozen=True)
class StartPoint:
    """The point where a run starts: a new network, or the last epoch of a checkpoint.

    Attributes:
        state: The earlier run whose tracked run this one continues; None for a new run.
        path: The checkpoint; None for a new network.
        epoch: The last epoch that was trained.
        hyperparameters: The hyperparameters of the checkpoint's module.
        shapes: The shapes of the tensors of its network's body, by name.
        averaged: Whether it also holds a moving average of the trained weights.
    """

    state: RunState | None = None
    path: Path | None = None
    epoch: int = 0
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    averaged: bool = False

    @classmethod
    def find(cls, config: DictConfig, folder: Path, console: Console) -> StartPoint:
        """Resolve `resume`.

        Args:
            config: The composed configuration.
            folder: The folder of the run.
            console: Shows why `resume=auto` finds nothing to continue.

        Raises:
            ValueError: The folder holds a run with other settings, a row of the results table would mix settings, or a
                training cannot continue from the checkpoint.
        """
        if not config.resume:
            return cls()
        state, wanted, last = RunState.read(folder), settings(config), last_checkpoint(folder)
        same = state is not None and state.settings == wanted
        if config.resume != "auto":
            path = Path(config.resume)
            earlier = RunState.read(run_of(path.absolute())) if config.paths.results_dir else None
            if earlier and (differ := differences(earlier.settings, wanted)):
                raise ValueError(
                    f"resume={path} was started with other settings ({differ}), and a record in "
                    f"paths.results_dir={config.paths.results_dir} must be of one recipe: move that run away"
                )
            return cls.read(path, state if same else None)
        if state is None:
            console.print(
                "resume=auto: no earlier run with this configuration was found; starting a new run", soft_wrap=True
            )
            return cls()
        if not same:
            raise ValueError(
                f"resume=auto: {folder} holds a run with other settings: {differences(state.settings, wanted)}; "
                "restore them to continue, or give another folder to start a new run"
            )
        if last.is_file():
            return cls.read(last, state)
        if state.objective is None:
            console.print(
                f"resume=auto: the run in {folder} completed no epoch; it starts again", markup=False, soft_wrap=True
            )
        return cls(state)

    @classmethod
    def read(cls, path: Path, state: RunState | None = None) -> StartPoint:
        """Read the start point after the last epoch of a checkpoint; load no tensors and run no code of the file.

        Args:
            path: A `last.ckpt`.
            state: The state of the earlier run that continues, if any.

        Raises:
            ValueError: It is not a checkpoint of this project, or lacks the state or the provenance of its training.
        """
        from fer_lightning.data.provenance import Provenance
        from fer_lightning.training.checkpoint_io import read_checkpoint

        try:
            checkpoint = read_checkpoint(path, mmap=True)
            hyperparameters, history = checkpoint["hyper_parameters"], checkpoint["history"]
            if "optimizer_states" not in checkpoint or not (history and isinstance(epoch := history[-1]["epoch"], int)):
                raise ValueError("it has no training state")
            if Provenance.read(hyperparameters.get("provenance")) is None:
                raise ValueError("its provenance lacks the data or the protocol of its training")
        except ValueError as error:
            raise ValueError(f"resume={path} is not a checkpoint that a run can continue from ({error})") from None
        body = "network.body."
        tensors = checkpoint["state_dict"].items()
        shapes = {key.removeprefix(body): tuple(value.shape) for key, value in tensors if key.startswith(body)}
        return cls(state, path, epoch, hyperparameters, shapes, "current_model_state" in checkpoint)

    def check_config(self, config: DictConfig, body: nn.Module) -> None:
        """Refuse to continue with another network, optimizer or schedule, or with fewer epochs than were trained.

        Args:
            config: The composed configuration.
            body: The body of its network, on any device including meta.

        Raises:
            ValueError: The message lists the options that differ.
        """
        if self.path is None:
            return
        stored, prefix = self.hyperparameters, f"resume={self.path}"
        if self.epoch > config.trainer.max_epochs:
            raise ValueError(
                f"{prefix} has been trained for {self.epoch} epochs: "
                f"trainer.max_epochs={config.trainer.max_epochs} must be {self.epoch} or more"
            )
        if self.shapes != {key: tuple(value.shape) for key, value in body.state_dict().items()}:
            differ = differences(stored["model"], to_container(config.model))
            raise ValueError(f"{prefix} has another network: model differs in {differ or 'its code'}")
        callbacks = to_container(config.get("callbacks") or {})
        if self.averaged and not any(str((part or {}).get("_target_")).endswith(".EMA") for part in callbacks.values()):
            raise ValueError(
                f"{prefix} also holds a moving average of the trained weights: add callbacks=ema to continue, or use "
                f"model.weights={self.path} to start from the average"
            )
        for part in ("optimizer", "scheduler"):
            old_target, new_target = stored[part].get("_target_"), config[part]["_target_"]
            if old_target != new_target:
                raise ValueError(f"{prefix} was trained with {part} {old_target}; it cannot continue with {new_target}")
        self._check_restored(config)

    def _check_restored(self, config: DictConfig) -> None:
        """Refuse other values of options that the checkpoint's state restores, whatever the configuration contains."""
        stored, callbacks = self.hyperparameters, to_container(config.get("callbacks") or {})
        restored: dict[str, tuple[str, ...]] = {
            "optimizer": (),
            "loss": ("_target_", "class_weights"),
            "model": ("mean", "std"),
        }
        if str(stored["scheduler"]["_target_"]).endswith("plateau"):
            restored["scheduler"] = ()
        for part, keys in restored.items():
            old, new = (
                {k: v for k, v in options.items() if not keys or k in keys}
                for options in (stored[part], to_container(config[part]))
            )
            self._check_unchanged(part, old, new)
        stopping = stored["provenance"].get("config")
        for key in ("callbacks", "early_stopping"):
            stopping = stopping.get(key) if isinstance(stopping, Mapping) else None
        if isinstance(stopping, Mapping) and callbacks.get("early_stopping"):
            self._check_unchanged("early_stopping", stopping, callbacks["early_stopping"])

    def _check_unchanged(self, part: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        if differ := differences(before, now):
            raise ValueError(
                f"resume={self.path}: {part} differs in {differ}; a checkpoint continues with its own settings"
            )

    def check_data(self, config: DictConfig, faces: FaceArrays, split: Split, console: Console) -> None:
        """Refuse other classes, and val or test images that the network may have been trained or selected on.

        Args:
            config: The composed configuration.
            faces: The data set of the run.
            split: Its parts.
            console: Shows a warning if the checkpoint was trained on other data.

        Raises:
            ValueError: The class names or their order differ, the network may have been trained or selected on images
                that the run selects or measures on, or, with `resume=auto` or `paths.results_dir`, the data differ.
        """
        from fer_lightning.data.provenance import Provenance, refusal_to_train

        if self.path is None:
            return
        prefix, classes = f"resume={self.path}", self.hyperparameters["classes"]
        if list(classes) != list(faces.classes):
            raise ValueError(
                f"{prefix} has the classes {', '.join(classes)}; "
                f"{faces.name} has {', '.join(faces.classes)}, and names and order must be equal"
            )
        origin = Provenance.read(self.hyperparameters["provenance"])
        assert origin is not None  # `read` refuses an unknown one
        changed = not origin.has_data(faces)
        if changed and config.resume == "auto":
            raise ValueError(
                f"resume=auto: the data have changed since {self.path} was written; remove resume=auto to start "
                f"a new run, or give {prefix} to continue with other data"
            )
        if changed and config.paths.results_dir:
            raise ValueError(
                f"{prefix} was trained on other data than this {faces.name}, and a record in "
                f"paths.results_dir={config.paths.results_dir} must be of one data set: start a new run"
            )
        # a leaky run may be resumed under its own protocol
        if not origin.matches(faces, split) and (reason := refusal_to_train(origin, faces, split)):
            raise ValueError(f"{prefix} {reason}; start a new run, or keep the data and the protocol of its training")
        if changed:
            console.print(
                f"{self.path} was trained on other data than this {faces.name}.",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )
