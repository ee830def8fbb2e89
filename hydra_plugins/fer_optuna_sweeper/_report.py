"""Reports of a study: terminal lines and `optimization_results.yaml`."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import make_url

from hydra_plugins.fer_optuna_sweeper._study import FAILURE, OVERRIDES, is_lost, trials_by_state

if TYPE_CHECKING:
    from hydra_plugins.fer_optuna_sweeper.sweeper import FerOptunaSweeper


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the best trial, or the Pareto front sorted by objective values; empty while no trial is complete."""
    if not any(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)):
        return []
    if len(study.directions) == 1:
        return [study.best_trial]
    return sorted(study.best_trials, key=lambda trial: tuple(trial.values))


def reported_steps(study: optuna.Study) -> int:
    """Count the steps (usually epochs) that all trials have reported, lost trials included."""
    return sum(len(trial.intermediate_values) for trial in study.get_trials(deepcopy=False))


def trial_line(trial: FrozenTrial, study: optuna.Study, total: int) -> str:
    """Format a finished trial as one line: state, values, duration, best trial, progress."""
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    state = "lost, will be retried" if is_lost(trial) else states.get(trial.state, "running")
    text = f"trial {trial.number} {state}"
    if trial.state == TrialState.COMPLETE:
        text += ": " + _format_values(trial)
    elif trial.state == TrialState.PRUNED and trial.last_step is not None:
        text += f" at step {trial.last_step}"
    elif trial.state == TrialState.FAIL:
        text += f": {trial.user_attrs.get(FAILURE)}"
    if trial.duration is not None:
        text += f" after {trial.duration.total_seconds():.1f} s"
    best = best_trials(study)
    if len(study.directions) == 1 and best:
        text += f"; best {_format_values(best[0])} (trial {best[0].number})"
    trials = trials_by_state(study)
    return text + f"; {trials.started - len(trials.running)} of {total}"


def _format_values(trial: FrozenTrial) -> str:
    return ", ".join(f"{value:.6g}" for value in trial.values or [])


def retrain_command(trial: FrozenTrial) -> str:
    """Return the command that runs the trial's job again as a single run."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]
    options, _ = get_args_parser().parse_known_args(sys.argv[1:])
    for option in ("config_path", "config_name", "config_dir"):
        if value := getattr(options, option, None):
            program += [f"--{option.replace('_', '-')}", value]
    return shlex.join(["python", *program, *map(_redact, trial.user_attrs.get(OVERRIDES, []))])


def _redact(override: str) -> str:
    """Replace passwords in URIs, as files and terminals must not show them."""
    override = re.sub(r"(://[^:/@\s]*):\S+@", r"\1:***@", override)
    return re.sub(r"([?&]\w*(?:password|token|odbc_connect)=)[^&\s]+", r"\1***", override, flags=re.IGNORECASE)


def _counts(study: optuna.Study) -> dict[str, int]:
    trials = trials_by_state(study)
    lost = sum(map(is_lost, study.get_trials(deepcopy=False)))
    return {
        "complete": len(trials.complete),
        "pruned": len(trials.pruned),
        "failed": len(trials.failed),
        "running": len(trials.running),
        "lost_and_repeated": lost,
    }


def summary(study: optuna.Study) -> str:
    """Format the study for the terminal: counts, the best trials and the commands that retrain them."""
    counts = {name.replace("_", " "): n for name, n in _counts(study).items() if n}
    if steps := reported_steps(study):
        counts["steps reported"] = steps
    lines = [f"Study {study.study_name}: " + ", ".join(f"{n} {name}" for name, n in counts.items())]
    best = best_trials(study)
    if not best:
        return "\n".join([*lines, "No trial is complete, so there is no best trial."])
    if len(study.directions) > 1:
        lines.append(f"Pareto front ({', '.join(d.name.lower() for d in study.directions)}):")
    for trial in best:
        params = " ".join(f"{n}={v:.6g}" if isinstance(v, float) else f"{n}={v}" for n, v in trial.params.items())
        one = len(study.directions) == 1
        lines.append(f"{'Best:     ' if one else '  '}trial {trial.number}: {_format_values(trial)} with {params}")
        lines.append(f"{'Retrain:  ' if one else '    '}{retrain_command(trial)}")
    return "\n".join(lines)


def write_results(study: optuna.Study, plugin: FerOptunaSweeper, sweep_dir: Path) -> Path:
    """Write `optimization_results.yaml` atomically and return its path."""
    results: dict[str, Any] = {"name": "optuna"}
    best = best_trials(study)
    if len(study.directions) > 1:
        results["solutions"] = [
            {
                "trial": trial.number,
                "params": trial.params,
                "values": list(trial.values),
                "retrain": retrain_command(trial),
            }
            for trial in best
        ]
    elif best:
        results |= {
            "best_params": best[0].params,
            "best_value": best[0].value,
            "best_trial": best[0].number,
            "retrain": retrain_command(best[0]),
        }
    assert plugin.task.address is not None
    results |= {
        "study_name": study.study_name,
        "storage": make_url(plugin.task.address.url).render_as_string(hide_password=True),
        "directions": [direction.name.lower() for direction in study.directions],
        "trials": _counts(study),
        "steps": reported_steps(study),
    }
    path = sweep_dir / "optimization_results.yaml"
    temporary = path.with_suffix(f".{os.getpid()}")
    OmegaConf.save(OmegaConf.create(results), temporary)
    os.replace(temporary, path)
    return path
