"""The loop of one sweep worker: checks options, claims and launches trials, reports results."""

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
    TrialsByState,
    absolute_url,
    claim,
    fail_and_requeue,
    fail_stale_trials,
    trials_by_state,
)

if TYPE_CHECKING:
    from hydra_plugins.fer_optuna_sweeper.sweeper import FerOptunaSweeper

log = logging.getLogger(__name__)
REQUIRED_PACKAGES = {"CmaEsSampler": "cmaes", "GPSampler": "torch"}  # which Optuna imports at the first suggestion
INTERRUPTED = 130  # exit status after Ctrl-C, as in shells
ENDED = "fer_optuna:ended"  # study attribute: number of started trials at the last on_study_end


class SweepError(Exception):
    """The sweep cannot start or has to stop; the message is for the user."""


class Sweep:
    """One worker of a sweep.

    Args:
        plugin: The sweeper, after its `setup`.
        arguments: The command-line overrides.

    Raises:
        SweepError: The options, the search space or the storage are invalid.
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
            self.space = parse_space(self.options["params"] or {}, arguments, self.loader, self._config_value)
            self.grid = self._grid()
        except SpaceError as error:
            raise SweepError(str(error)) from error
        if not self.space.parameters and not self.options["custom_search_space"]:
            raise SweepError(
                "the search space is empty: give a sweep such as 'lr=interval(0.1,1)' or hydra.sweeper.params"
            )
        self._check_keys()
        self.total = min(self.options["n_trials"], len(self.grid) if self.grid is not None else 10**9)
        extra = self.options["custom_search_space"]
        try:
            self.extra_space = pydoc.locate(extra) if extra else None
            if extra and not callable(self.extra_space):
                raise ImportError(f"hydra.sweeper.custom_search_space: no function {extra} found")
            self.observers = [instantiate(observer) for observer in self.options["observers"]]
            package = REQUIRED_PACKAGES.get(self.options["sampler"]["_target_"].rpartition(".")[2])
            if package and importlib.util.find_spec(package) is None:
                raise ImportError(f"hydra/sweeper/sampler needs the package {package}: pip install {package}")
            self._sampler(0)
        except Exception as error:  # an unknown name, an invalid argument, a missing package
            raise SweepError(str(error)) from error
        self.address, self.study = self._open_study()
        plugin.task.address = self.address

    # -- before the first job -------------------------------------------------------------------------

    def _directions(self) -> list[StudyDirection]:
        given = self.options["direction"]
        try:
            directions = [StudyDirection[str(d).upper()] for d in (given if isinstance(given, list) else [given])]
        except KeyError:
            directions = []
        if not directions or StudyDirection.NOT_SET in directions:
            raise SweepError(f"hydra.sweeper.direction must be minimize, maximize or a list of these, not {given}")
        if len(directions) > 1 and not issubclass(
            get_class(self.options["pruner"]["_target_"]), optuna.pruners.NopPruner
        ):
            raise SweepError("Optuna cannot prune with several objectives: set hydra/sweeper/pruner=none")
        return directions

    def _check_numbers(self) -> None:
        for key in ("n_trials", "n_jobs", "heartbeat_interval", "grace_period"):
            if self.options[key] < 1:
                raise SweepError(f"hydra.sweeper.{key} must be at least 1, not {self.options[key]}")
        if (self.options["max_failures"] or 0) < 0:
            raise SweepError(f"hydra.sweeper.max_failures must be 0 or more, not {self.options['max_failures']}")
        if self.options["grace_period"] < 2 * self.options["heartbeat_interval"]:
            raise SweepError("hydra.sweeper.grace_period must be at least twice the heartbeat_interval")

    def _config_value(self, name: str) -> Any:
        choices = self.config.hydra.runtime.choices
        return choices[name] if name in choices else OmegaConf.select(self.config, name)

    def _grid(self) -> list[dict[str, Any]] | None:
        sampler = self.options["sampler"]
        if not issubclass(get_class(sampler["_target_"]), optuna.samplers.GridSampler):
            return None
        if self.options["custom_search_space"]:
            raise SweepError(
                "hydra.sweeper.custom_search_space does not work with a grid: choose another hydra/sweeper/sampler"
            )
        # Optuna's own GridSampler does not support conditions and revisits points after a crash
        grid = self.space.grid()
        if sampler["seed"] is not None:
            np.random.default_rng(sampler["seed"]).shuffle(grid)
        return grid

    def _check_keys(self) -> None:
        """Compose configs as the jobs will, so that an invalid key or option fails before the first job."""
        for overrides in self.space.examples(lambda name: bool(self.loader.get_group_options(name))):
            try:
                self.loader.load_sweep_config(self.config, overrides)
            except (HydraException, OmegaConfBaseException) as error:
                raise SweepError(f"no job can start with this search space: {error}") from error

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Return a sampler seeded by the study's seed and the trial's number, so that workers and resumes differ."""
        if self.grid is not None:
            return optuna.samplers.RandomSampler()  # not used: the grid gives every value
        config = dict(self.options["sampler"])
        # A quasi-random sequence needs the same seed in all trials: it seeds the scrambling.
        if config.get("seed") is not None and not issubclass(get_class(config["_target_"]), optuna.samplers.QMCSampler):
            config["seed"] = int(np.random.SeedSequence([config["seed"], number]).generate_state(1)[0])
        sampler: optuna.samplers.BaseSampler = instantiate(config)
        return sampler

    def _open_study(self) -> tuple[StudyAddress, optuna.Study]:
        options = self.options
        name = options["study_name"] or self._default_study_name()
        displayed_url = options["storage"]
        try:
            url = absolute_url(options["storage"], Path("outputs", "sweeps", f"{get_valid_filename(name)}.db"))
            displayed_url = make_url(url).render_as_string(hide_password=True)
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
        except Exception as error:  # drivers, servers and file systems raise errors of many types
            reason = error.orig if isinstance(error, DBAPIError) else error
            raise SweepError(f"cannot open the storage {displayed_url}: {reason}") from error
        if study.directions != self.directions:
            raise SweepError(f"the study {name} has other directions: choose another hydra.sweeper.study_name")
        for parameter in self.space.parameters:
            for trial in study.get_trials(deepcopy=False):
                if parameter.name in trial.distributions:
                    try:
                        check_distribution_compatibility(trial.distributions[parameter.name], parameter.distribution)
                    except ValueError as error:
                        raise SweepError(
                            f"the study {name} has another search space for {parameter.name} ({error}): "
                            "choose another hydra.sweeper.study_name"
                        ) from error
        return address, study

    def _default_study_name(self) -> str:
        """Return the job's name and a hash of all that identifies the study.

        The number of trials and the sampler are not part of the hash, only whether it is a grid.
        """
        without_hydra = OmegaConf.masked_copy(self.config, [str(key) for key in self.config if key != "hydra"])
        config, fixed = OmegaConf.to_container(without_hydra), dict(self.space.fixed)
        for name in self.options["without_effect"]:
            fixed = {key: text for key, text in fixed.items() if not f"{key.lstrip('+~')}.".startswith(f"{name}.")}
            *groups, last = name.split(".")
            node: Any = config
            for group in groups:
                node = node.get(group) if isinstance(node, dict) else None
            if isinstance(node, dict):
                node.pop(last, None)
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
        """Run trials until the study has `n_trials`, and wait for those of other workers.

        Raises:
            SweepError: More than `max_failures` trials failed.
            SystemExit: After Ctrl-C (130), or with the status of a job that exited (75 after SIGTERM).
        """
        with self.address.lock():
            trials = trials_by_state(self.study)
            finished = trials.started >= self.total and not trials.running
            if not finished:
                self._notify("on_study_start", self.study, strict=True)
        if finished:
            log.info(
                "study %s already has %d trials: nothing to do (increase hydra.sweeper.n_trials to continue)",
                self.address.name,
                self.total,
            )
            self._notify_study_end()
            print(_report.summary(self.study))
            return
        log.info(
            "study %s: %d of %d trials so far, in %s",
            self.address.name,
            trials.started,
            self.total,
            self._redacted_url(),
        )
        sweep_dir = Path(self.config.hydra.sweep.dir)
        sweep_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, sweep_dir / "multirun.yaml")
        try:
            stop_reason = self._run_trials()
        except (KeyboardInterrupt, SystemExit) as stop:
            started = trials_by_state(self.study).started
            message = f"fer_optuna: stopped at {started} of {self.total} trials; run the same command to resume"
            print(f"\n{message}", file=sys.stderr)
            raise SystemExit(stop.code if isinstance(stop, SystemExit) else INTERRUPTED) from None
        results = _report.write_results(self.study, self.plugin, sweep_dir)  # first, because observers store it
        self._notify_study_end()
        print(_report.summary(self.study) + f"\nResults:  {results}")
        if stop_reason:
            raise SweepError(stop_reason)

    def _notify_study_end(self) -> None:
        """Notify the observers that the study has ended; only the first worker to get here does."""
        with self.address.lock():
            started = trials_by_state(self.study).started
            if self.study.user_attrs.get(ENDED) != started:
                self._notify("on_study_end", self.study)
                self.study.set_user_attr(ENDED, started)

    def _redacted_url(self) -> str:
        return make_url(self.address.url).render_as_string(hide_password=True)

    def _run_trials(self) -> str:
        """Claim and launch trials until none is left; return the reason of an early stop, else an empty string."""
        waiting_for: list[int] = []
        while True:
            with self.address.lock():
                stale = fail_stale_trials(self.study, self.address)
                trials = trials_by_state(self.study)
                if stop_reason := self._too_many_failures(trials):
                    claims = []
                else:
                    limit = min(self.options["n_jobs"], self.total - trials.started)
                    claims = claim(self.study, self.address, limit, self._suggest, self._sampler, self.grid)
            self._report_finished(stale)
            if claims:
                self._launch(claims)
            elif stop_reason or not trials.running:
                return stop_reason
            else:
                if trials.running != waiting_for:
                    waiting_for = trials.running
                    log.info("all trials are claimed; waiting for trials %s of other workers", waiting_for)
                time.sleep(min(2, self.options["heartbeat_interval"]))

    def _too_many_failures(self, trials: TrialsByState) -> str:
        limit = self.options["max_failures"]
        if limit is None or len(trials.failed) <= limit:
            return ""
        last = self.study.get_trials(deepcopy=False)[trials.failed[-1]]
        return (
            f"{len(trials.failed)} trials failed, more than hydra.sweeper.max_failures={limit}; "
            f"the last is trial {last.number}: {last.user_attrs.get(FAILURE)}"
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
        """Run claimed trials; fail and requeue those that end without a result."""
        reason = "its job ended without a result"
        to_check: Iterable[Claim] = claims
        try:
            with Heartbeat(self.address, [c.trial_id for c in claims]):
                self.launcher.launch([c.overrides for c in claims], initial_job_idx=claims[0].number)
        except (KeyboardInterrupt, SystemExit) as stop:
            reason = f"stopped by {type(stop).__name__} {stop}".strip()
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:2000]
            log.error("the launcher failed: %s", reason)
            # A job that has started may still run elsewhere: its own heartbeat decides.
            to_check = [c for c in claims if WORKER not in self._trial(c.number).user_attrs]
        finally:
            with self.address.lock():
                for claimed in to_check:
                    fail_and_requeue(self.study, self.address, claimed.number, reason)
            self._report_finished(t for t in map(self._trial, (c.number for c in claims)) if t.state.is_finished())

    def _trial(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _report_finished(self, trials: Iterable[FrozenTrial]) -> None:
        for trial in trials:
            log.info(_report.trial_line(trial, self.study, self.total))
            self._notify("on_trial_end", self.study, trial)

    def _notify(self, event: str, *arguments: Any, strict: bool = False) -> None:
        """Call the observers that handle an event; unless `strict`, their errors are only logged."""
        for observer in self.observers:
            try:
                getattr(observer, event, lambda *_: None)(*arguments)
            except Exception as error:
                if strict:
                    raise SweepError(f"{type(observer).__name__}.{event} failed: {error}") from error
                log.exception("%s.%s failed", type(observer).__name__, event)
