"""Common parts of the benchmarks: arguments, measurement, saving and printing of results."""

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
    """Create a script's argument parser, with its docstring as help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def finish(name: str, doc: str, result: Mapping[str, Any], out: Path | None) -> None:
    """Save a result with its question and environment, and print its table of docs/PERFORMANCE.md.

    Args:
        name: Name of the script.
        doc: Docstring of the script; the first line is the question.
        result: The measured values.
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


def interleave(sides: Mapping[Any, Callable[[], Any]], rounds: int, warm_up: int = 0) -> dict[Any, list[Any]]:
    """Measure several alternatives round by round, so that load on the machine affects all of them equally.

    Args:
        sides: Functions that measure an alternative once, by name; the one that goes first changes in each round.
        rounds: Number of measurements of each.
        warm_up: Number of rounds before, whose measurements are discarded.
    """
    values: dict[Any, list[Any]] = {name: [] for name in sides}
    order = deque(sides)
    for number in range(warm_up + rounds):
        for name in order:
            value = sides[name]()
            if number >= warm_up:
                values[name].append(value)
        order.rotate(-1)
    return values


def ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the ratios of neighbouring rounds."""
    return [one / other for one, other in zip(ones, others, strict=True)]


def seconds_of(call: Callable[..., object], *arguments: object) -> float:
    """Return the duration of a call in seconds."""
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def run_subprocess(command: Sequence[str], folder: str | Path = ".", **environment: str) -> tuple[float, float]:
    """Run a command in a subprocess and return its duration in seconds and peak memory in MiB.

    A peak below that of this process is not measurable.
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
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_noise(path: Path, usages: Sequence[str], distinct: int) -> None:
    """Write a file like fer2013.csv with an image of noise for each usage; images repeat after `distinct`."""
    random = np.random.default_rng(0)
    noise = [" ".join(map(str, random.integers(256, size=48 * 48))) for _ in range(distinct)]
    with path.open("w", encoding="utf-8") as file:
        file.write("emotion,pixels,Usage\n")
        file.writelines(f"{i % 7},{noise[i % distinct]},{usage}\n" for i, usage in enumerate(usages))
