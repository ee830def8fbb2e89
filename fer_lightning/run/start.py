"""Where a run starts: fresh, from weights or from a checkpoint; refuses a network that has seen its test images."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig
from rich.console import Console

from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.protocols.split import Split
from fer_lightning.data.provenance import Provenance, refusal
from fer_lightning.models.network import weights_origin
from fer_lightning.run.preflight import read_training
from fer_lightning.run.resume import RunState, differences, settings, state_to_resume
from fer_lightning.run_folder import last_checkpoint, run_of

log = logging.getLogger(__name__)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keeps a folder to one run; the lock goes with the process, however it ends.

    Where the run ends before it has begun, for example by a mistake in its settings, the folder goes too.

    Raises:
        ValueError: Another process trains there.
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
            f"{folder} belongs to a run that another process is training at this moment: give this one a folder of "
            "its own, or start it again"
        ) from None


def refuse_overwrite(folder: Path, config: DictConfig) -> None:
    """Refuses to train over a run that `resume` does not go on with.

    Raises:
        ValueError: The folder holds one.
    """
    there, last = RunState.read(folder), last_checkpoint(folder)
    if config.resume and Path(config.resume).resolve().parent == last.resolve().parent:
        return
    if there is None and last.exists():
        raise ValueError(
            f"{folder} holds a run that does not say which it was: resume={last} goes on with it; or give this one a "
            "folder of its own"
        )
    if there is None or config.resume == "auto":  # whose rule is `state_to_resume`'s
        return
    if there.objective is None and not last.exists():  # it did not end an epoch
        return
    if differ := differences(there.settings, settings(config)):
        raise ValueError(f"{folder} holds another run, with {differ}: give this one a folder of its own")
    raise ValueError(f"{folder} holds this run already: add resume=auto to go on with it, or give another folder")


def find_checkpoint(config: DictConfig, folder: Path, console: Console) -> tuple[Path | None, RunState | None]:
    """The checkpoint that `resume` stands for and the run in the folder that goes on; None where there is none.

    Raises:
        ValueError: The folder holds a run of other settings, or a row of the results table would be of two recipes.
    """
    if config.resume and config.resume != "auto" and config.paths.results_dir:
        begun = RunState.read(run_of(Path(config.resume).absolute()))
        if begun and (differ := differences(begun.settings, settings(config))):
            raise ValueError(
                f"resume={config.resume} was begun with other settings ({differ}), and what goes to "
                f"paths.results_dir={config.paths.results_dir} must be of one recipe: move that run away"
            )
    if config.resume != "auto":
        state = RunState.read(folder) if config.resume else None
        same = state is not None and state.settings == settings(config)
        return (Path(config.resume) if config.resume else None), (state if same else None)
    state = state_to_resume(folder, settings(config))
    last = last_checkpoint(folder)
    if state is None:
        console.print("resume=auto: no earlier run of this configuration was found, this one starts anew")
    elif state.objective is None and not last.is_file():
        console.print(f"resume=auto: the run in {folder} did not end an epoch, it starts anew")
    return (last if state and last.is_file() else None), state


def check_start(config: DictConfig, checkpoint: Path | None, faces: FaceArrays, split: Split, console: Console) -> None:
    """Refuses to start from what does not fit the data or has learnt what the run is measured on.

    Args:
        config: The composed configuration.
        checkpoint: What the run goes on from.
        faces: The run's data.
        split: Its parts.
        console: Says so where the checkpoint comes from other data.

    Raises:
        ValueError: The class names or their order differ, the protocol does, or more epochs are trained than are asked
            for; or, with `resume=auto`, the data differ.
    """
    weights = config.model.get("weights")
    # weights of unknown provenance come from elsewhere, such as timm's from ImageNet
    if weights and (learnt := Provenance.read(weights_origin(Path(weights)))):
        refuse_seen_images(f"model.weights={weights}", learnt, faces, split)
    if config.finetune.callback and not (config.model.get("pretrained") or weights or config.resume):
        log.warning("finetune freezes random features: set model.pretrained=true or model.weights=file.safetensors")
    if checkpoint is None:
        return
    saved = read_training(checkpoint)
    then, trained = saved["hyper_parameters"], saved["history"][-1]["epoch"]
    if trained > config.trainer.max_epochs:
        raise ValueError(
            f"resume={checkpoint} has been trained for {trained} epochs: "
            f"trainer.max_epochs={config.trainer.max_epochs} must be {trained} or more"
        )
    origin = Provenance.read(then["provenance"])
    assert origin is not None  # `read_training` refuses an unknown one
    if not origin.is_of(faces, split):  # else a leaky run remains the leaky run that it is
        refuse_seen_images(f"resume={checkpoint}", origin, faces, split)
    if list(then["classes"]) != list(faces.classes):
        raise ValueError(
            f"resume={checkpoint} knows the classes {', '.join(then['classes'])}; "
            f"{faces.name} has {', '.join(faces.classes)}, and their order counts"
        )
    if origin.data_fingerprint != faces.fingerprint:
        if config.resume == "auto":
            raise ValueError(
                f"resume=auto: the data have changed since {checkpoint} was written; leave it out to start anew, "
                f"or give resume={checkpoint} to go on with other data"
            )
        console.print(f"[yellow]{checkpoint} was trained on other data than {faces.name} here.[/]")


def refuse_seen_images(named: str, origin: Provenance, faces: FaceArrays, split: Split) -> None:
    """Refuses to start from a network that has seen images which the run selects or measures on.

    Args:
        named: The argument that names the network, for the message.
        origin: Its provenance.
        faces: The data of the run.
        split: Their parts.

    Raises:
        ValueError: It has, or may have.
    """
    for part in ("val", "test"):
        if reason := refusal(origin, faces, split, part):
            raise ValueError(f"{named} {reason}; leave it out, or keep the data and the protocol of its training")
