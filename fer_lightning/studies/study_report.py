"""Extensions of a sweep with `hydra/sweeper=fer_optuna`: direction, plots, and a parent run in MLflow."""

from __future__ import annotations

import atexit
import gc
import html
import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import OmegaConf, open_dict, read_write

from fer_lightning.overrides import WITHOUT_EFFECT
from fer_lightning.reporting.mlflow_parents import STUDY_PARENT, StudyRun

if TYPE_CHECKING:
    import optuna
    from omegaconf import DictConfig
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)


class StudyDefaults(Callback):
    """Hydra callback that configures an Optuna sweep for the app's objectives and attaches a `StudyReport`.

    `hydra.sweeper.direction` follows `objective_mode`; a `second_objective` is a cost and adds a second direction.
    Keys that change no result are excluded from the identity of the study.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Complete `hydra.sweeper` before Hydra instantiates it."""
        if OmegaConf.select(config, "hydra.sweeper.observers") is None:
            return  # a plain multirun
        direction: Any = "maximize" if config.objective_mode == "max" else "minimize"
        if config.second_objective:
            direction = [direction, "minimize"]
        if config.hydra.sweeper.direction not in (direction, "minimize"):
            log.warning("hydra.sweeper.direction is set to %s by objective_mode and second_objective", direction)
        choices = config.hydra.runtime.choices
        store = None
        if str(config.tracking._target_).endswith(".mlflow"):
            store = OmegaConf.masked_copy(config.tracking, ["uri", "local_dir", "experiment_name", "timeout"])
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.sweeper.direction = direction
            config.hydra.sweeper.without_effect = [*config.hydra.sweeper.without_effect, *WITHOUT_EFFECT]
            config.hydra.sweeper.observers.append(
                {
                    "_target_": "fer_lightning.studies.study_report.StudyReport",
                    "label": choices.search or choices.experiment or choices.model,
                    "folder": str(Path(config.hydra.sweep.dir).absolute()),
                    "objectives": [name for name in (config.objective, config.second_objective) if name],
                    "store": store,
                }
            )


class StudyReport:
    """Observer of a sweep: tags trials in MLflow when they end, and writes the plots of the study.

    Args:
        label: First part of the name of the parent run.
        folder: The sweep's folder; `study.html` is written there.
        objectives: Names of the objective values.
        store: Arguments of `StudyRun`, None without MLflow.
    """

    def __init__(self, label: str, folder: str, objectives: Sequence[str], store: Mapping[str, Any] | None) -> None:
        self.label = label
        self.folder = Path(folder)
        self.objectives = list(objectives)
        self._run = StudyRun(**store) if store else None
        self._frozen = False

    def on_study_start(self, study: optuna.Study) -> None:
        """Open the parent run, or reuse the one of another worker."""
        if self._run:
            self._open(self._run, study)
            atexit.register(self._mark_killed, study)

    def on_trial_end(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Tag the trial's run with its state."""
        if self._run:
            self._run.tag_trials({trial.number: trial.state.name})
        if not self._frozen:  # all libraries are loaded: exclude their objects from later garbage collections
            gc.freeze()
            self._frozen = True

    def on_study_end(self, study: optuna.Study) -> None:
        """Write the plots, and end the parent run with the best trial and the counts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files = [
            self.folder / "optimization_results.yaml",
            write_plots(study, self.objectives, self.folder / "study.html"),
        ]
        if not self._run:
            return
        atexit.unregister(self._mark_killed)
        self._open(self._run, study)
        trials = study.get_trials(deepcopy=False)
        self._run.tag_trials({t.number: t.state.name for t in trials if t.state.is_finished()})
        self._run.close(*study_summary(study, self.objectives), [file for file in files if file and file.exists()])

    def _open(self, run: StudyRun, study: optuna.Study) -> None:
        existing = study.user_attrs.get(STUDY_PARENT)
        run.open(existing, study.study_name, f"{self.label} {study.study_name}")
        if run.run_id != existing:
            study.set_user_attr(STUDY_PARENT, run.run_id)

    def _mark_killed(self, study: optuna.Study) -> None:
        """Mark the parent run as killed if this process exits before the study ends and no trial runs elsewhere."""
        from optuna.trial import TrialState

        if self._run and not study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._run.mark_killed()


def study_summary(
    study: optuna.Study, objectives: Sequence[str]
) -> tuple[dict[str, float], dict[str, str], int | None]:
    """Summarise a study for MLflow.

    Args:
        study: Any study.
        objectives: Names of its objective values.

    Returns:
        Metrics (the best value of each objective, trials by state, epochs trained), tags (the best trial and its
        parameters, or the numbers of the Pareto-optimal trials), and the number of the best trial, None if there is no
        single one.
    """
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    states = Counter("lost" if t.user_attrs.get("lost") else t.state.name.lower() for t in trials)
    metrics = {f"trials/{state}": float(states[state]) for state in ("complete", "pruned", "fail", "lost")}
    if len(objectives) == 1:  # trials with several objectives report no intermediate values
        metrics["epochs"] = float(sum(len(t.intermediate_values) for t in trials))
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    if not complete:
        return metrics, {}, None
    for i, (name, direction) in enumerate(zip(objectives, study.directions, strict=True)):
        better = max if direction.name == "MAXIMIZE" else min
        metrics[f"best/{name}"] = better(t.values[i] for t in complete)
    if len(objectives) > 1:
        front = sorted(t.number for t in study.best_trials)
        return metrics, {"pareto_trials": ", ".join(map(str, front))}, None
    best = study.best_trial
    params = {f"best.{name}": str(value) for name, value in best.params.items()}
    return metrics, {"best_trial": str(best.number), **params}, best.number


def write_plots(study: optuna.Study, objectives: Sequence[str], path: Path) -> Path | None:
    """Write the plots of a study into one self-contained HTML page.

    Args:
        study: Any study.
        objectives: Names of its objective values.
        path: The page to write.

    Returns:
        `path`, or None if plotly is not installed.
    """
    from optuna import visualization as plots

    if not plots.is_available():
        log.warning("the study has no plots: they need plotly (pip install plotly)")
        return None
    figures: list[tuple[str, Callable[[], Any]]] = []
    signs = [-1 if direction.name == "MAXIMIZE" else 1 for direction in study.directions]  # for importances
    if len(objectives) > 1:
        figures.append(("Pareto front", partial(plots.plot_pareto_front, study, target_names=list(objectives))))
    for i, name in enumerate(objectives):
        for title, plot, sign in (
            ("Optimization history", plots.plot_optimization_history, 1),
            ("Parameter importances", plots.plot_param_importances, signs[i]),
            ("Parallel coordinates", plots.plot_parallel_coordinate, 1),
            ("Slices", plots.plot_slice, 1),
        ):
            target = None if len(objectives) == 1 else partial(_value, i=i, sign=sign)
            figures.append((f"{title}: {name}", partial(plot, study, target=target, target_name=name)))
    if len(objectives) == 1:
        labels = {"xaxis_title": "epoch", "yaxis_title": objectives[0]}
        figures.append(("Epochs of each trial", lambda: plots.plot_intermediate_values(study).update_layout(labels)))
    figures.append(("Timeline", partial(plots.plot_timeline, study)))
    sections, script = [], True
    for title, plot_figure in figures:
        try:
            with warnings.catch_warnings(action="ignore"):  # about equal importances of few trials
                figure = plot_figure().update_layout(title=None, margin_t=30)  # the heading is more precise
                body = figure.to_html(full_html=False, include_plotlyjs=script)
            script = False
        except Exception as error:  # usually too few trials; the other plots are still written
            body = f"<p>not plotted: {html.escape(str(error))}</p>"
        sections.append(f"<h2>{html.escape(title)}</h2>\n{body}")
    name = html.escape(study.study_name)
    path.write_text(
        f"<!doctype html><meta charset='utf-8'><title>{name}</title><style>body {{font-family: sans-serif}}</style>"
        f"<h1>{name}</h1>\n" + "\n".join(sections),
        "utf-8",
    )
    log.info("plots of the study: %s", os.path.relpath(path))
    return path


def _value(trial: FrozenTrial, i: int, sign: int) -> float:
    return sign * float(trial.values[i])
