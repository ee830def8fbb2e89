"""Trains the rows of the results table, sequentially or in parallel, and resumes interrupted trainings."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_lightning.config import ROOT
from fer_lightning.reporting.records import RESULTS, record_name
from fer_lightning.run_folder import RECORD, last_checkpoint
from fer_lightning.studies.baselines.rows import experiment_of, file_of, header_of, starts_from
from fer_lightning.studies.ensemble.recipe import ENSEMBLES, RUNS, Recipe

OUT_OF_TIME = 75
"""Exit status EX_TEMPFAIL: not an error, run the command again."""


@dataclass(frozen=True)
class Runner:
    """Trains rows in subprocesses and publishes their records.

    Attributes:
        deadline: `time.monotonic()` at which it has to stop, or None.
        at_once: Number of parallel trainings. A small network fills neither a GPU nor several cores, so two in parallel
            may finish sooner than in sequence; each gets an equal number of cores and writes to a log.
        weights: Whether to train measured rows whose weights are not in `RUNS`, as in a fresh clone.
        root: The project's folder.
    """

    deadline: float | None = None
    at_once: int = 1
    weights: bool = False
    root: Path = ROOT

    def run_rows(self, requested: Sequence[tuple[str, int]]) -> int:
        """Run the rows without a record, and with `weights` also those without weights; existing records stay.

        The rows that another one starts from (`After`) are trained first if their weights are missing.

        Args:
            requested: Names and seeds of experiments or ensembles; the members of an ensemble are trained first, with
                their own seeds.

        Returns:
            The exit status: 0 done or already measured, `OUT_OF_TIME`, or that of the process that failed.
        """
        pending: dict[str, Sequence[str]] = {}
        for (name, seed), weights in self._in_order(requested).items():
            record = self.root / RESULTS / record_name(name, seed)
            if measured := record.exists():
                has_weights = self._run_record(name, seed).exists()
                print(f"{name} seed {seed}: already measured, {record.relative_to(self.root)}", end="")
                print("" if has_weights or weights else "; its weights are missing, --weights trains them")
                if has_weights or not weights:
                    continue
            recipe, header = self._recipe(name), self._header(name)
            if needs := header.get("Needs"):
                print(f"{name} needs {needs} ({header.get('Cost', 'cost unknown')})")
            if not recipe.exists():
                seed_override = [f"seed={seed}"] if seed else []
                publish_override = [] if measured else ["paths.results_dir=results"]
                pending[f"{name}_seed{seed}"] = [f"experiment={name}", *seed_override, *publish_override]
                continue
            for member, overrides in Recipe.read(recipe).members.items():
                if not (self.root / RUNS / member / RECORD).exists():
                    pending.setdefault(member, overrides)
            vote = ["-m", "fer_lightning", "ensemble", f"recipe={name}", *([] if measured else [f"publish={name}"])]
            if status := self.run_trainings(pending) or self.run_processes({name: vote}):
                return status
            pending = {}
        return self.run_trainings(pending)

    def _in_order(self, requested: Sequence[tuple[str, int]]) -> dict[tuple[str, int], bool]:
        """Return the rows, each after the rows that it starts from, and whether the weights of a row are needed."""
        ordered: dict[tuple[str, int], bool] = {}

        def add(row: tuple[str, int], weights: bool) -> None:
            recipe = self._recipe(row[0])
            members = Recipe.read(recipe).members.values() if recipe.exists() else []
            for name in (row[0], *(experiment_of(overrides) for overrides in members)):
                for first in starts_from(self._header(name)):
                    add((first, 0), weights=True)
            ordered[row] = weights or ordered.get(row, False)

        for row in requested:
            add(row, self.weights)
        return ordered

    def _recipe(self, name: str) -> Path:
        return self.root / "conf" / "ensemble" / f"{name}.yaml"

    def _header(self, name: str) -> dict[str, str]:
        file = file_of(self.root, name)
        return header_of(file) if file else {}

    def _run_record(self, name: str, seed: int) -> Path:
        """Return the path of the record in the folder of a row's run or ensemble."""
        if self._recipe(name).exists():
            return self.root / ENSEMBLES / name / RECORD
        return self.root / RUNS / f"{name}_seed{seed}" / RECORD

    def run_trainings(self, runs: Mapping[str, Sequence[str]]) -> int:
        """Train runs in folders of these names, resumed from an existing checkpoint; each after what it starts from."""
        pending = dict(runs)
        while pending:
            experiments = {experiment_of(overrides) for overrides in pending.values()}
            later = {
                run
                for run, overrides in pending.items()
                if experiments.intersection(starts_from(self._header(experiment_of(overrides))))
            }
            if status := self._train({run: overrides for run, overrides in pending.items() if run not in later}):
                return status
            pending = {run: pending[run] for run in pending if run in later}
        return 0

    def _train(self, runs: Mapping[str, Sequence[str]]) -> int:
        commands, preparations = {}, {}
        for run, overrides in runs.items():
            last, finished = last_checkpoint(RUNS / run), (self.root / RUNS / run / RECORD).exists()
            # `auto` refuses settings that differ from the checkpoint's; a finished run is only measured again
            resume = [f"resume={last if finished else 'auto'}"] if (self.root / last).exists() else []
            commands[run] = ["train.py", *overrides, f"hydra.run.dir={RUNS / run}", *resume]
            if not resume and (command := self._header(experiment_of(overrides)).get("First")):
                preparations[f"{run}, first"] = shlex.split(command)[1:]  # without `python`
        return self.run_processes(preparations) or self.run_processes(commands)

    def run_processes(self, commands: Mapping[str, Sequence[str]]) -> int:
        """Run Python with each of these command lines until all end, one fails or the time limit is reached."""
        pending = list(commands.items())
        running: dict[str, subprocess.Popen[bytes]] = {}
        status = 0
        try:
            while running or (pending and not status):
                while pending and len(running) < self.at_once and not status:
                    name, arguments = pending.pop(0)
                    running[name] = self._start(name, arguments)
                time.sleep(0.1)
                for name in [name for name, process in running.items() if process.poll() is not None]:
                    code = running.pop(name).returncode
                    status = status or code
                    if self.at_once > 1:
                        print(f"{name}: {f'failed ({code}), see {self._log(name)}' if code else 'done'}", flush=True)
                if running and self.deadline is not None and time.monotonic() > self.deadline:
                    for name in running:
                        print(f"{name}: time limit reached; the same command resumes from the last complete epoch")
                    return status or OUT_OF_TIME
        except KeyboardInterrupt:  # the subprocesses received it too
            for process in running.values():
                process.wait()
            raise
        finally:
            for process in running.values():
                process.send_signal(signal.SIGTERM)  # no effect on ended processes
            for process in running.values():
                process.wait()
        return status

    def _start(self, name: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        resumed = any(argument.startswith("resume=") for argument in arguments)
        target = f", writes to {self._log(name)}" if self.at_once > 1 else ""
        print(f"{name}: {'resumes from its last complete epoch' if resumed else 'starts'}{target}", flush=True)
        command = [sys.executable, *arguments]
        if self.at_once == 1:
            return subprocess.Popen(command, cwd=self.root)
        cores = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.at_once))}
        log = self.root / self._log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            return subprocess.Popen(
                command, cwd=self.root, env=cores | os.environ, stdout=file, stderr=subprocess.STDOUT
            )

    def _log(self, name: str) -> Path:
        return RUNS / f"{name}.log"
