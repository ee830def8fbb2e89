"""The loop of one worker of a sweep: check, claim trials, launch them, record and report."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import pydoc
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from hydra.core.utils import get_valid_filename
from hydra.errors import HydraException
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import check_distribution_compatibility
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from hydra_plugins.fer_optuna_sweeper import _report
from hydra_plugins.fer_optuna_sweeper._space import SpaceError, override_text, parse_space
from hydra_plugins.fer_optuna_sweeper._study import (
    FAILURE,
    WORKER,
    Claim,
    Heartbeat,
    StudyAddress,
    Tally,
    absolute_url,
    claim,
    give_up,
    give_up_silent,
    tally,
)

if TYPE_CHECKING:
    from hydra_plugins.fer_optuna_sweeper.sweeper import FerOptunaSweeper

log = logging.getLogger(__name__)
NEEDS = {"CmaEsSampler": "cmaes", "GPSampler": "torch"}  # what Optuna imports only at the first suggestion
INTERRUPTED = 130  # the exit status after Ctrl-C, as shells have it
ENDED = "fer_optuna:ended"  # the study's user attribute: how many trials its observers have seen the end of


class SweepError(Exception):
    """The sweep cannot begin, or has to stop; the message is for the user."""


class Sweep:
    """One worker's part in a study.

    Args:
        plugin: The sweeper, set up by Hydra.
        arguments: The overrides of the command line.

    Raises:
        SweepError: Something in the options, the space or the storage is wrong.
    """

    def __init__(self, plugin: FerOptunaSweeper, arguments: list[str]) -> None:
        assert plugin.hydra_context is not None
        assert plugin.config is not None
        assert plugin.launcher is not None
        self.plugin, self.options = plugin, plugin.options
        self.config, self.launcher = plugin.config, plugin.launcher
        self.loader = plugin.hydra_context.config_loader
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.directions = self._directions()
        self._check_numbers()
        try:
            self.space = parse_space(self.options["params"] or {}, arguments, self.loader, self._known)
            self.grid = self._grid()
        except SpaceError as error:
            raise SweepError(str(error)) from error
        if not self.space.parameters and not self.options["custom_search_space"]:
            raise SweepError("nothing to search: give a sweep such as 'lr=interval(0.1,1)', or hydra.sweeper.params")
        self._check_keys()
        self.total = min(self.options["n_trials"], len(self.grid) if self.grid is not None else 10**9)
        extra = self.options["custom_search_space"]
        try:
            self.extra_space = pydoc.locate(extra) if extra else None
            if extra and not callable(self.extra_space):
                raise ImportError(f"hydra.sweeper.custom_search_space: there is no function {extra}")
            self.observers = [instantiate(observer) for observer in self.options["observers"]]
            package = NEEDS.get(self.options["sampler"]["_target_"].rpartition(".")[2])
            if package and importlib.util.find_spec(package) is None:
                raise ImportError(f"this sampler needs a package: pip install {package}")
            self._sampler(0)
        except Exception as error:  # a wrong name, a wrong argument, a missing package
            raise SweepError(str(error)) from error
        self.address, self.study = self._join()
        plugin.task.address = self.address

    # -- before the first job -------------------------------------------------------------------------

    def _directions(self) -> list[StudyDirection]:
        given = self.options["direction"]
        try:
            directions = [StudyDirection[str(d).upper()] for d in (given if isinstance(given, list) else [given])]
        except KeyError:
            directions = []
        if not directions or StudyDirection.NOT_SET in directions:
            raise SweepError(f"hydra.sweeper.direction is minimize, maximize or a list of these, not {given}")
        if len(directions) > 1 and not issubclass(
            get_class(self.options["pruner"]["_target_"]), optuna.pruners.NopPruner
        ):
            raise SweepError("Optuna cannot prune with several objectives: take hydra/sweeper/pruner=none")
        return directions

    def _check_numbers(self) -> None:
        for key in ("n_trials", "n_jobs", "heartbeat_interval", "grace_period"):
            if self.options[key] < 1:
                raise SweepError(f"hydra.sweeper.{key} must be at least 1, not {self.options[key]}")
        if (self.options["max_failures"] or 0) < 0:
            raise SweepError(f"hydra.sweeper.max_failures must be 0 or more, not {self.options['max_failures']}")
        if self.options["grace_period"] < 2 * self.options["heartbeat_interval"]:
            raise SweepError("hydra.sweeper.grace_period must be at least twice the heartbeat_interval")

    def _known(self, name: str) -> Any:
        choices = self.config.hydra.runtime.choices
        return choices[name] if name in choices else OmegaConf.select(self.config, name)

    def _grid(self) -> list[dict[str, Any]] | None:
        sampler = self.options["sampler"]
        if not issubclass(get_class(sampler["_target_"]), optuna.samplers.GridSampler):
            return None  # Optuna's own GridSampler knows no conditions and revisits points after a crash
        if self.options["custom_search_space"]:
            raise SweepError("a grid cannot know what custom_search_space will suggest: take another sampler")
        grid = self.space.grid()
        if sampler["seed"] is not None:
            np.random.default_rng(sampler["seed"]).shuffle(grid)
        return grid

    def _check_keys(self) -> None:
        """Compose what jobs will compose, so that a wrong key or option ends here."""
        for overrides in self.space.examples(lambda name: bool(self.loader.get_group_options(name))):
            try:
                self.loader.load_sweep_config(self.config, overrides)
            except (HydraException, OmegaConfBaseException) as error:
                raise SweepError(f"no job could start with this search space: {error}") from error

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """A sampler seeded by the study's seed and the trial's number: workers and resumes differ."""
        if self.grid is not None:
            return optuna.samplers.RandomSampler()  # never asked: the grid's points are given
        config = dict(self.options["sampler"])
        # A quasi-random sequence must keep its seed, which is that of its scrambling.
        if config.get("seed") is not None and not issubclass(get_class(config["_target_"]), optuna.samplers.QMCSampler):
            config["seed"] = int(np.random.SeedSequence([config["seed"], number]).generate_state(1)[0])
        sampler: optuna.samplers.BaseSampler = instantiate(config)
        return sampler

    def _join(self) -> tuple[StudyAddress, optuna.Study]:
        options = self.options
        name = options["study_name"] or self._derived_name()
        shown = options["storage"]
        try:
            url = absolute_url(options["storage"], Path("outputs", "sweeps", f"{get_valid_filename(name)}.db"))
            shown = make_url(url).render_as_string(hide_password=True)
            pruner = json.dumps(options["pruner"])
            address = StudyAddress(url, name, pruner, options["heartbeat_interval"], options["grace_period"])
            with address.lock():
                study = optuna.create_study(
                    study_name=name,
                    storage=address.storage,
                    directions=self.directions,
                    sampler=self._sampler(0),
                    pruner=address.build_pruner(),
                    load_if_exists=True,
                )
        except (ArgumentError, ValueError) as error:
            raise SweepError(str(error)) from error
        except Exception as error:  # drivers, servers and file systems each have errors of their own
            reason = error.orig if isinstance(error, DBAPIError) else error
            raise SweepError(f"cannot reach the storage {shown}: {reason}") from error
        if study.directions != self.directions:
            raise SweepError(f"the study {name} has other directions: take another hydra.sweeper.study_name")
        for parameter in self.space.parameters:
            for trial in study.get_trials(deepcopy=False):
                if parameter.name in trial.distributions:
                    try:
                        check_distribution_compatibility(trial.distributions[parameter.name], parameter.distribution)
                    except ValueError as error:
                        raise SweepError(
                            f"the study {name} has searched {parameter.name} otherwise ({error}): "
                            "take another hydra.sweeper.study_name"
                        ) from error
        return address, study

    def _derived_name(self) -> str:
        """The job's name and a hash of what makes two sweeps one study: not their length or sampler, unless a grid."""
        whole = OmegaConf.masked_copy(self.config, [str(key) for key in self.config if key != "hydra"])
        config, fixed = OmegaConf.to_container(whole), dict(self.space.fixed)
        for name in self.options["without_effect"]:
            fixed = {key: word for key, word in fixed.items() if not f"{key.lstrip('+~')}.".startswith(f"{name}.")}
            *groups, last = name.split(".")
            inside: Any = config
            for group in groups:
                inside = inside.get(group) if isinstance(inside, dict) else None
            if isinstance(inside, dict):
                inside.pop(last, None)
        space = [
            [p.key, repr(p.distribution), sorted((k, list(v)) for k, v in p.when.items())]
            for p in self.space.parameters
        ]
        content = [
            sorted(space),
            sorted(fixed.values()),
            [direction.name for direction in self.directions],
            self.config.hydra.job.config_name,
            self.options["custom_search_space"],
            self.grid is not None,
            config,
        ]
        digest = hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()
        return f"{self.config.hydra.job.name}-{digest[:8]}"

    # -- the sweep --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until the study has its trials, and wait for those of other workers.

        Raises:
            SweepError: More trials failed than may.
            SystemExit: After Ctrl-C, or where a job left with a status (SIGTERM: 75), which is kept.
        """
        with self.address.lock():
            count = tally(self.study)
            finished = count.started >= self.total and not count.running
            if not finished:
                self._notify("on_study_start", self.study, strict=True)
        if finished:
            log.info(
                "study %s has its %d trials already: nothing to do (a larger hydra.sweeper.n_trials goes on)",
                self.address.name,
                self.total,
            )
            self._close()
            print(_report.summary(self.study))
            return
        log.info(
            "study %s: %d of %d trials so far, in %s",
            self.address.name,
            count.started,
            self.total,
            self._place(),
        )
        sweep_dir = Path(self.config.hydra.sweep.dir)
        sweep_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, sweep_dir / "multirun.yaml")
        try:
            stopped = self._work()
        except (KeyboardInterrupt, SystemExit) as stop:
            count = tally(self.study)
            said = f"fer_optuna: stopped at {count.started} of {self.total} trials; the same command goes on"
            print(f"\n{said}", file=sys.stderr)
            raise SystemExit(stop.code if isinstance(stop, SystemExit) else INTERRUPTED) from None
        results = _report.write_results(self.study, self.plugin, sweep_dir)  # first, for the observers to keep
        self._close()
        print(_report.summary(self.study) + f"\nResults:  {results}")
        if stopped:
            raise SweepError(stopped)

    def _close(self) -> None:
        """Tell the observers that the study has ended: once, by whichever worker comes first."""
        with self.address.lock():
            ended = tally(self.study).started
            if self.study.user_attrs.get(ENDED) != ended:
                self._notify("on_study_end", self.study)
                self.study.set_user_attr(ENDED, ended)

    def _place(self) -> str:
        return make_url(self.address.url).render_as_string(hide_password=True)

    def _work(self) -> str:
        """Claim and launch until nothing is left; returns why it stopped early, or nothing."""
        waiting_for: list[int] = []
        while True:
            with self.address.lock():
                lost = give_up_silent(self.study, self.address)
                count = tally(self.study)
                if stop := self._too_many_failures(count):
                    claims = []
                else:
                    limit = min(self.options["n_jobs"], self.total - count.started)
                    claims = claim(self.study, self.address, limit, self._suggest, self._sampler, self.grid)
            self._note(lost)
            if claims:
                self._launch(claims)
            elif stop or not count.running:
                return stop
            else:
                if count.running != waiting_for:
                    waiting_for = count.running
                    log.info("all trials are taken; waiting for other workers' %s", waiting_for)
                time.sleep(min(2, self.options["heartbeat_interval"]))

    def _too_many_failures(self, count: Tally) -> str:
        limit = self.options["max_failures"]
        if limit is None or len(count.failed) <= limit:
            return ""
        last = self.study.get_trials(deepcopy=False)[count.failed[-1]]
        return (
            f"{len(count.failed)} trials failed, more than hydra.sweeper.max_failures={limit}; "
            f"the last, trial {last.number}: {last.user_attrs.get(FAILURE)}"
        )

    def _suggest(self, trial: optuna.Trial) -> list[str]:
        values = self.space.suggest(trial)
        overrides = self.space.overrides(values)
        if callable(self.extra_space):
            self.extra_space(self.config, trial)
            extra = {name: value for name, value in trial.params.items() if name not in values}
            overrides += [f"{name}={override_text(value)}" for name, value in extra.items()]
        return overrides

    def _launch(self, claims: list[Claim]) -> None:
        """Run claimed trials, and see to it that none of them is left without an end."""
        why = "its job ended without a result"
        mine: Iterable[Claim] = claims
        try:
            with Heartbeat(self.address, [c.trial_id for c in claims]):
                self.launcher.launch([c.overrides for c in claims], initial_job_idx=claims[0].number)
        except (KeyboardInterrupt, SystemExit) as stop:
            why = f"stopped by {type(stop).__name__} {stop}".strip()
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"[:2000]
            log.error("the launcher failed: %s", why)
            # A job that did start may live on, elsewhere: its own heartbeat decides.
            mine = [c for c in claims if WORKER not in self._trial(c.number).user_attrs]
        finally:
            with self.address.lock():
                for one in mine:
                    give_up(self.study, self.address, one.number, why)
            self._note(t for t in map(self._trial, (c.number for c in claims)) if t.state.is_finished())

    def _trial(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _note(self, trials: Iterable[FrozenTrial]) -> None:
        for trial in trials:
            log.info(_report.line(trial, self.study, self.total))
            self._notify("on_trial_end", self.study, trial)

    def _notify(self, event: str, *arguments: Any, strict: bool = False) -> None:
        """Call the observers that care. What happens in one must not cost a sweep that runs."""
        for observer in self.observers:
            try:
                getattr(observer, event, lambda *_: None)(*arguments)
            except Exception as error:
                if strict:
                    raise SweepError(f"{type(observer).__name__}.{event} failed: {error}") from error
                log.exception("%s.%s failed", type(observer).__name__, event)
