"""What the benchmarks share: their arguments, how they measure, and how a result is saved and shown."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from report import SECTIONS
from rich.console import Console
from rich.table import Table

from fer_lightning.files import write_json
from fer_lightning.reporting.environment import environment

ROOT = Path(__file__).parents[1]


def new_parser(doc: str) -> argparse.ArgumentParser:
    """Takes the words that follow a script; its docstring is their help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def finish(name: str, doc: str, result: Mapping[str, Any], out: Path | None) -> None:
    """Saves what a script measured, with its question and where it ran, and prints its table of docs/PERFORMANCE.md.

    Args:
        name: Of the script.
        doc: Its docstring; the first line is the question.
        result: What it measured.
        out: JSON file to write.
    """
    question = doc.splitlines()[0]
    whole = {"question": question, **result, **environment()}
    if out:
        write_json(out, whole)
    [section] = (section for section in SECTIONS if section.name == name)
    headings, *rows = section.table(whole)
    table = Table(title=question)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def interleaved(sides: Mapping[Any, Callable[[], Any]], rounds: int, warm_up: int = 0) -> dict[Any, list[Any]]:
    """What each side measured, round after round, so that a busy moment of the machine hits all alike.

    Args:
        sides: By name: what measures once. They take turns at going first.
        rounds: So many measurements of each are kept.
        warm_up: So many rounds come before and are thrown away.
    """
    seen: dict[Any, list[Any]] = {name: [] for name in sides}
    order = deque(sides)
    for number in range(warm_up + rounds):
        for name in order:
            measured = sides[name]()
            if number >= warm_up:
                seen[name].append(measured)
        order.rotate(-1)
    return seen


def ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """The ratios of neighbouring rounds."""
    return [one / other for one, other in zip(ones, others, strict=True)]


def seconds_of(call: Callable[..., object], *arguments: object) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def run_alone(command: Sequence[str], folder: str | Path = ".", **environment: str) -> tuple[float, float]:
    """Runs a command in a process of its own: its seconds, and the most MiB that it held.

    A peak below that of this process cannot be seen.
    """
    with tempfile.TemporaryFile("w+", errors="replace", encoding="utf-8") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **environment})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            log.seek(0)
            sys.exit(f"{' '.join(command)} ended with {process.returncode}\n{log.read()[-3000:]}")
    return seconds, usage.ru_maxrss / 1024


def peak_mib() -> float:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_noise(path: Path, usages: Sequence[str], distinct: int) -> None:
    """A file like fer2013.csv with a picture of noise for each usage; after `distinct` of them they come again."""
    random = np.random.default_rng(0)
    noise = [" ".join(map(str, random.integers(256, size=48 * 48))) for _ in range(distinct)]
    with path.open("w", encoding="utf-8") as file:
        file.write("emotion,pixels,Usage\n")
        file.writelines(f"{i % 7},{noise[i % distinct]},{usage}\n" for i, usage in enumerate(usages))
