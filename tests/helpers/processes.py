"""Tests that start other processes."""

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pytest

from fer_lightning.config import ROOT

T = TypeVar("T")


def start_process(function: Callable[..., object], *arguments: object) -> multiprocessing.Process:
    """Start a function in a new process, without the seconds of importing the package.

    A fork of this process would hang in PyTorch: the threads of its pool are not copied.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fer_lightning.run.train"])
    process = context.Process(target=function, args=arguments, daemon=True)
    with pytest.MonkeyPatch.context() as patch:  # else it would run the main script, which Streamlit's tests replace
        patch.setitem(sys.modules, "__main__", ModuleType("__main__"))
        process.start()
    return process


def _environment() -> dict[str, str]:
    """One thread and a wide terminal."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def start_python(*arguments: str, cwd: Path, **options: object) -> "subprocess.Popen[str]":
    """Start Python with these arguments."""
    return subprocess.Popen([sys.executable, *arguments], cwd=cwd, env=_environment(), text=True, **options)


def run_python(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run Python with these arguments to its end and capture its outputs."""
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=_environment(), text=True, capture_output=True)


def run_train(*overrides: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run `train.py` to its end."""
    return run_python(str(ROOT / "train.py"), *overrides, cwd=cwd)


def wait_for(
    condition: Callable[[], T],
    process: "subprocess.Popen[str] | None" = None,
    *,
    ignore: tuple[type[Exception], ...] = (),
    seconds: float = 300,
) -> T:
    """Call a function until its result is true, and return that; fail if the process ends or the time is over.

    Args:
        condition: The function; errors of the types in `ignore` count as false.
        process: A process that has to run meanwhile.
        ignore: Types of errors.
        seconds: The time limit.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            if result := condition():
                return result
        except ignore:
            pass
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"still waiting after {seconds} s"
        time.sleep(0.05)


def free_port() -> int:
    """A free TCP port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
