"""A reader of untrusted input."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis.strategies import SearchStrategy

SECONDS = 20
"""Time limit of an input."""


class Hang(BaseException):
    """An input exceeded the time limit."""


@dataclass(frozen=True)
class Target:
    """A reader of untrusted input.

    Attributes:
        name: Name in tables.
        inputs: Its inputs, most of them malformed.
        feed: Function of an input and an empty folder that returns if the input is accepted.
        refusals: Errors that it may raise otherwise, with one sentence.
    """

    name: str
    inputs: SearchStrategy[Any]
    feed: Callable[[Any, Path], None]
    refusals: tuple[type[BaseException], ...]

    def accepts(self, given: Any) -> bool:
        """Whether an input is accepted; any error that is not a refusal is raised."""
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), limited(SECONDS):
            try:
                self.feed(given, Path(folder))
            except self.refusals as refusal:
                message = str(refusal)
                assert 8 < len(message) < 5000, message
                assert "Traceback" not in message, message
                return False
            return True


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise `Hang` after this many seconds."""

    def on_alarm(*_: Any) -> None:
        raise Hang(f"over {seconds} s")

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
