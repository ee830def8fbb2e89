"""Trains the rows of the results table, where they stopped, one after another or side by side."""

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
from fer_lightning.run_folder import last_checkpoint
from fer_lightning.studies.baselines.rows import experiment_of, file_of, header_of
from fer_lightning.studies.ensemble.recipe import RUNS, Recipe

OUT_OF_TIME = 75
"""EX_TEMPFAIL: not an error, try again."""


@dataclass(frozen=True)
class Runner:
    """Trains rows in processes of their own, and publishes their records.

    Attributes:
        deadline: `time.monotonic()` at which it has to stop, or None.
        at_once: How many trainings share the machine. A small net fills neither a GPU nor several cores, so that two
            side by side may end sooner than one after the other; each gets its share of the cores and writes to a log.
        weights: Whether rows are trained that are measured, but whose weights are not in `RUNS`, as in a fresh clone.
        root: The project's folder.
    """

    deadline: float | None = None
    at_once: int = 1
    weights: bool = False
    root: Path = ROOT

    def rows(self, wanted: Sequence[tuple[str, int]]) -> int:
        """Runs the rows that have no record yet, or with `weights` none of their weights; a record stays as it is.

        What a row starts from (`After`) is trained before it where its weights are not here.

        Args:
            wanted: Experiments, or ensembles, whose members are trained first and have seeds of their own; each with
                its seed.

        Returns:
            The exit status: 0 done or measured before, `OUT_OF_TIME`, or that of what failed.
        """
        waiting: dict[str, Sequence[str]] = {}
        for (name, seed), weights in self._in_order(wanted).items():
            record = self.root / "results" / f"{name}_seed{seed}.json"
            if measured := record.exists():
                kept = self._left(name, seed).exists()
                print(f"{name} seed {seed}: measured already, {record.relative_to(self.root)}", end="")
                print("" if kept or weights else "; its weights are not here, --weights trains them")
                if kept or not weights:
                    continue
            recipe, header = self._recipe(name), self._header(name)
            if needs := header.get("Needs"):
                print(f"{name} needs {needs} ({header.get('Cost', 'cost unknown')})")
            if not recipe.exists():
                seeded = [f"seed={seed}"] if seed else []
                published = [] if measured else ["paths.results_dir=results"]
                waiting[f"{name}_seed{seed}"] = [f"experiment={name}", *seeded, *published]
                continue
            for member, words in Recipe.read(recipe).members.items():
                if not (self.root / RUNS / member / "record.json").exists():
                    waiting.setdefault(member, words)
            vote = ["-m", "fer_lightning", "ensemble", f"recipe={name}", *([] if measured else [f"publish={name}"])]
            if status := self.trainings(waiting) or self.processes({name: vote}):
                return status
            waiting = {}
        return self.trainings(waiting)

    def _in_order(self, wanted: Sequence[tuple[str, int]]) -> dict[tuple[str, int], bool]:
        """The rows with those that they start from before them, and whether a row's weights are needed."""
        ordered: dict[tuple[str, int], bool] = {}

        def add(row: tuple[str, int], weights: bool) -> None:
            recipe = self._recipe(row[0])
            nets = [experiment_of(words) for words in Recipe.read(recipe).members.values()] if recipe.exists() else []
            for name in (row[0], *nets):
                if first := self._header(name).get("After"):
                    add((first, 0), weights=True)
            ordered[row] = weights or ordered.get(row, False)

        for row in wanted:
            add(row, self.weights)
        return ordered

    def _recipe(self, name: str) -> Path:
        return self.root / "conf" / "ensemble" / f"{name}.yaml"

    def _header(self, name: str) -> dict[str, str]:
        file = file_of(self.root, name)
        return header_of(file) if file else {}

    def _left(self, name: str, seed: int) -> Path:
        """The record that the training of a row, or the vote of an ensemble, left beside its weights."""
        if self._recipe(name).exists():
            return self.root / "outputs" / "ensembles" / name / "record.json"
        return self.root / RUNS / f"{name}_seed{seed}" / "record.json"

    def trainings(self, runs: Mapping[str, Sequence[str]]) -> int:
        """Trains in the folders of these names, on from the last checkpoint there; each after what it starts from."""
        waiting = dict(runs)
        while waiting:
            experiments = {experiment_of(words) for words in waiting.values()}
            later = {
                run for run, words in waiting.items() if self._header(experiment_of(words)).get("After") in experiments
            }
            if status := self._train({run: words for run, words in waiting.items() if run not in later}):
                return status
            waiting = {run: waiting[run] for run in waiting if run in later}
        return 0

    def _train(self, runs: Mapping[str, Sequence[str]]) -> int:
        commands, first = {}, {}
        for run, words in runs.items():
            last, ended = last_checkpoint(RUNS / run), (self.root / RUNS / run / "record.json").exists()
            # `auto` refuses other settings than those of the first epochs; a run that has ended is measured again
            resume = [f"resume={last if ended else 'auto'}"] if (self.root / last).exists() else []
            commands[run] = ["train.py", *words, f"hydra.run.dir={RUNS / run}", *resume]
            if not resume and (command := self._header(experiment_of(words)).get("First")):
                first[f"{run}, first"] = shlex.split(command)[1:]  # without `python`
        return self.processes(first) or self.processes(commands)

    def processes(self, commands: Mapping[str, Sequence[str]]) -> int:
        """Runs Python with each of these command lines until they end, one fails or the time is up."""
        waiting = list(commands.items())
        running: dict[str, subprocess.Popen[bytes]] = {}
        status = 0
        try:
            while running or (waiting and not status):
                while waiting and len(running) < self.at_once and not status:
                    what, words = waiting.pop(0)
                    running[what] = self._start(what, words)
                time.sleep(0.1)
                for what in [what for what, process in running.items() if process.poll() is not None]:
                    ended = running.pop(what).returncode
                    status = status or ended
                    if self.at_once > 1:
                        print(f"{what}: {f'failed ({ended}), see {self._log(what)}' if ended else 'done'}", flush=True)
                if running and self.deadline is not None and time.monotonic() > self.deadline:
                    for what in running:
                        print(f"{what}: the time is up; the same command goes on from the last whole epoch")
                    return status or OUT_OF_TIME
        except KeyboardInterrupt:  # the processes got it too
            for process in running.values():
                process.wait()
            raise
        finally:
            for process in running.values():
                process.send_signal(signal.SIGTERM)  # does nothing to what has ended
            for process in running.values():
                process.wait()
        return status

    def _start(self, what: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
        resumed = any(word.startswith("resume=") for word in words)
        to = f", writes to {self._log(what)}" if self.at_once > 1 else ""
        print(f"{what}: {'goes on from its last whole epoch' if resumed else 'starts'}{to}", flush=True)
        command = [sys.executable, *words]
        if self.at_once == 1:
            return subprocess.Popen(command, cwd=self.root)
        cores = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.at_once))}
        log = self.root / self._log(what)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            return subprocess.Popen(
                command, cwd=self.root, env=cores | os.environ, stdout=file, stderr=subprocess.STDOUT
            )

    def _log(self, what: str) -> Path:
        return RUNS / f"{what}.log"
