"""Known failures of a training as one sentence with a remedy; handling of Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from hydra.errors import CompactHydraException
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException
from pytorch_lightning.utilities.exceptions import SIGTERMException

from fer_lightning.data.arrays import DataError
from fer_lightning.files import error_message
from fer_lightning.run_folder import last_checkpoint
from fer_lightning.training.checkpoint_io import DISK_FULL_ERRORS
from fer_lightning.training.processes import is_first_process

INTERRUPTED = 130
"""The exit status after Ctrl-C, as in shells."""

REQUEUE = 75
"""The exit status after SIGTERM: EX_TEMPFAIL, `try again later`."""


class NonFiniteLossError(ArithmeticError):
    """A loss is NaN or infinite; the message names the batch and remedies."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Show a user error as its message only; HYDRA_FULL_ERROR=1 shows the traceback."""
    try:
        yield
    except InterpolationToMissingValueError as error:
        missing = re.search(r"Missing mandatory value: (\S+)", str(error))
        raise CompactHydraException(f"{missing[1] if missing else error.full_key} must be given") from None
    except (ValueError, OSError, MisconfigurationException) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS:  # `explain_errors` adds the remedy
            raise
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise CompactHydraException(error_message(error)) from None
    except OmegaConfBaseException as error:  # a key that was removed, or whose value cannot be resolved
        raise CompactHydraException(" ".join(str(error).split())) from None


@contextmanager
def explain_errors(config: DictConfig) -> Iterator[None]:
    """Turn known failures of a training into one sentence with a remedy; HYDRA_FULL_ERROR=1 shows the traceback.

    Args:
        config: The run's configuration.
    """
    try:
        yield
    except Exception as error:
        sentence = explanation(error, config)
        if sentence is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise CompactHydraException(sentence) from None


def explanation(error: BaseException, config: DictConfig) -> str | None:
    """Return the sentence for a known error, None for any other."""
    message = str(error)
    if isinstance(error, (NonFiniteLossError, MisconfigurationException, DataError)):
        return " ".join(message.split())
    if "Expected more than 1 value per channel when training" in message:
        return "BatchNorm cannot train on batches of one image: trainer.batch_size must be 2 or more for each process"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in message:
        size = int(config.trainer.batch_size)
        way = f"try trainer.batch_size={size // 2}" if size > 2 else "try a smaller model.image_size or model"
        if not isinstance(error, torch.OutOfMemoryError):
            return f"There is not enough memory in main memory for trainer.batch_size={size}: {way}"
        if config.data.get("resident") is True:
            return f"There is not enough memory on the GPU for the whole data set: try data.resident=false, or {way}"
        return f"There is not enough memory on the GPU for trainer.batch_size={size}: {way}"
    if isinstance(error, RuntimeError) and "DataLoader worker" in message:
        return (
            f"A process that prepares batches was killed ({message.split(' with')[0].splitlines()[0]}), most often "
            f"for lack of memory: try data.workers={int(config.data.workers) // 2} (now {config.data.workers})"
        )
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        why = next(iter(message.splitlines()), "")
        return f"trainer.compile=true needs a C++ compiler, on a GPU Triton ({why[:200]}): train without it"
    if isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS:
        place = f"{error.filename} could not be written" if error.filename else "a file could not be written"
        return (
            f"{error.strerror}: {place}. Files saved earlier are complete; free space in {config.paths.output_dir} and "
            "repeat the command with resume=auto"
        )
    return None


@contextmanager
def handle_interrupts(folder: Path, resume_command: Callable[..., str | None]) -> Iterator[None]:
    """End a run that Ctrl-C or SIGTERM stops with two lines: its progress, and the command that resumes it.

    The state of the last complete epoch is in `last.ckpt` already, so nothing has to be saved on the signal.

    Args:
        folder: The run's folder.
        resume_command: `Job.resume_command`; returns None for a run of a multirun, which handles its own stop.

    Raises:
        SystemExit: With status `INTERRUPTED` or `REQUEUE`.
        KeyboardInterrupt: After Ctrl-C, if there is no command.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        status = interrupt_status(stop)
        if status is None:
            raise
        terminated, saved = status == REQUEUE, last_checkpoint(folder)
        command = resume_command(has_checkpoint=saved.exists())
        if command and is_first_process():
            state = f"all whole epochs are in {saved}" if saved.exists() else "before the end of its first epoch"
            print(f"\nStopped by {'SIGTERM' if terminated else 'Ctrl-C'}; {state}", file=sys.stderr)
            print(f"{'To resume' if saved.exists() else 'To start again'}: {command}", file=sys.stderr)
        if not command and not terminated:
            raise KeyboardInterrupt from None
        raise SystemExit(status) from None
    finally:
        for number, handler in before.items():  # Lightning ignores Ctrl-C after the first
            signal.signal(number, handler)


def interrupt_status(error: BaseException) -> int | None:
    """Return the exit status for an error that Ctrl-C (`INTERRUPTED`) or SIGTERM (`REQUEUE`) caused, else None."""
    if _caused_by(error, SIGTERMException):
        return REQUEUE
    return INTERRUPTED if _caused_by(error, KeyboardInterrupt) else None


def _terminate(number: int, frame: Any) -> NoReturn:
    raise SIGTERMException


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False
