"""Trains, tests and reports one configuration: `train(config)`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from rich.console import Console

from fer_lightning.config import build, check, flatten, to_container
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.datamodule import FERDataModule
from fer_lightning.data.provenance import Provenance, earlier_trainings, refusal_to_train
from fer_lightning.files import write_json
from fer_lightning.models.cost import cost
from fer_lightning.models.network import count_parameters
from fer_lightning.models.weights import weights_origin
from fer_lightning.redaction import redact, redact_hydra_files
from fer_lightning.reporting import mlflow_parents, records, tables, tracking
from fer_lightning.reporting.environment import machine
from fer_lightning.reporting.report import write_report
from fer_lightning.run.data import prepare_data
from fer_lightning.run.folder import lock_folder, refuse_overwrite
from fer_lightning.run.job import GROUPS, Job
from fer_lightning.run.preflight import check_monitored, dry_run
from fer_lightning.run.record import description, part_name, recorded_parts, result_path
from fer_lightning.run.resume import RunState, StartPoint, settings
from fer_lightning.run.trainer import become_first_process, build_trainer, check_devices, quiet
from fer_lightning.run_folder import CHECKPOINTS, CONFIG, RECORD
from fer_lightning.training.allocator import keep_freed_memory
from fer_lightning.training.callbacks import TrainingProgress, checkpoints
from fer_lightning.training.errors import NonFiniteLossError, explain_errors, handle_interrupts, user_errors
from fer_lightning.training.evaluation import is_kaggle_test, loggable_scores, predict_part, score_part
from fer_lightning.training.metrics import Predictions, Scores, full_scores
from fer_lightning.training.module import FERModule
from fer_lightning.training.processes import is_first_process
from fer_lightning.training.trial_pruning import Pruning

log = logging.getLogger(__name__)


class PreparedRun(NamedTuple):
    """A checked run with its data.

    Attributes:
        datamodule: Its data.
        start: Its start point.
        published: The file in `paths.results_dir` for its record, None if `paths.results_dir` is not set.
    """

    datamodule: FERDataModule
    start: StartPoint
    published: Path | None


class Training(NamedTuple):
    """The parts of a training."""

    module: FERModule
    trainer: pl.Trainer
    progress: TrainingProgress
    best: ModelCheckpoint


def train(config: DictConfig) -> float | tuple[float, float]:
    """Trains, selects the best epoch on the val part, measures the test part once, and reports.

    A trial of a sweep neither measures nor reports: trials are compared on the val part, and only the selected one is
    measured on the test part.

    Args:
        config: The composed configuration (`conf/config.yaml`).

    Returns:
        The best value of `config.objective`, which sweeps optimise; with `config.second_objective` also its value.

    Raises:
        optuna.TrialPruned: The pruner stopped this trial.
    """
    with user_errors():
        become_first_process(config)
    quiet()
    keep_freed_memory()
    job, first = Job.current(), is_first_process()
    console = Console(quiet=not first)
    folder = Path(config.paths.output_dir).absolute()
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    with handle_interrupts(folder, job.resume_command), explain_errors(config), ExitStack() as stack:
        with user_errors():
            if first:
                stack.enter_context(lock_folder(folder))
            prepared = prepare_run(config, job, folder, console)
        state = prepared.start.state
        if config.resume == "auto" and state and (reached := state.objective) is not None:
            message = f"{folder}: this run has finished, {config.objective} {reached}; nothing is left to do"
            console.print(message, markup=False, soft_wrap=True)
            return reached
        return train_prepared(config, job, prepared, folder, console)


def train_prepared(
    config: DictConfig, job: Job, prepared: PreparedRun, folder: Path, console: Console
) -> float | tuple[float, float]:
    """Train, measure and report a prepared run; the result is that of `train`."""
    datamodule, start, first = prepared.datamodule, prepared.start, is_first_process()
    with ExitStack() as stack:
        with user_errors():
            if start.path:
                datamodule.first_epoch = start.epoch
                console.print(f"continues after epoch {start.epoch} from {start.path}", markup=False, soft_wrap=True)
            module = build_module(config, job, datamodule, start)
            head = description(config, job, datamodule)
            if first:  # from here on the folder belongs to this run
                RunState(settings(config)).write(folder)
            resumed = start.state is not None
            loggers = stack.enter_context(open_tracking(config, job, head, datamodule.faces, folder, resumed))
            training = assemble(config, job, folder, module, loggers, console)
        print_header(console, job, training, datamodule, folder)
        try:
            training.trainer.fit(module, datamodule=datamodule, ckpt_path=start.path, weights_only=True)
        except NonFiniteLossError as error:
            if not (job.trial and training.best.best_model_path):
                raise
            log.warning("trial %d ends with its best epoch: %s", job.trial.number, error)
        with user_errors():
            best_row = load_best_epoch(module, training.best.best_model_path, config.resume)
        scores, kaggle = ({}, None) if job.trial else measure(config, training, prepared, folder, best_row)
        record = head | outcome(training, best_row) | recorded_parts(scores, kaggle)
        if first:
            (folder / CONFIG).write_text(redact(OmegaConf.to_yaml(config, resolve=True)), "utf-8")
            write_json(folder / RECORD, record)
        if first and prepared.published and scores:
            records.publish(prepared.published, record)
        measured = {
            f"{part_name(part)}/{k}": v for part, row in scores.items() for k, v in loggable_scores(row).items()
        }
        objective = float(best_row[config.objective])
        if second := config.second_objective:
            measured[second] = cost(second, module.network)
        for logger in loggers:
            logger.log_metrics(measured, step=int(best_row["epoch"]))
    result = (objective, measured[second]) if second else objective
    if first:
        RunState(settings(config), result).write(folder)
    if scores:
        console.print(tables.scores_table(scores, module.classes))
        tables.results_files(console, folder, tracking.where(loggers))
    return result


def prepare_run(config: DictConfig, job: Job, folder: Path, console: Console) -> PreparedRun:
    """Check all settings of a run and read its data.

    Raises:
        ValueError, FileNotFoundError: A setting or the data are invalid; the run has not started then.
    """
    check(config)
    check_devices(config, job)
    refuse_overwrite(folder, config)  # in every process, as those that pass would wait for the others
    if is_first_process():
        redact_hydra_files(folder, job.sweep_dir)
    start = StartPoint.find(config, folder, console)
    dry_run(config, start)
    published = result_path(config, job)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    datamodule = prepare_data(config)
    check_monitored(config, datamodule.faces.classes)
    check_weights(config, datamodule)
    start.check_data(config, datamodule.faces, datamodule.split, console)
    return PreparedRun(datamodule, start, published)


def check_weights(config: DictConfig, datamodule: FERDataModule) -> None:
    """Refuse `model.weights` that were trained or selected on images which the run selects or measures on.

    Raises:
        ValueError: They were, or may have been.
    """
    origin = weights_provenance(config)
    if origin and (reason := refusal_to_train(origin, datamodule.faces, datamodule.split)):
        raise ValueError(
            f"model.weights={config.model.weights} {reason}; remove it, or keep the data and the protocol of its "
            "training"
        )


def weights_provenance(config: DictConfig) -> Provenance | None:
    """Return the provenance of `model.weights`; None without weights, or for those of other projects such as timm."""
    weights = config.model.get("weights")
    return Provenance.read(weights_origin(Path(weights))) if weights else None


def assemble(
    config: DictConfig, job: Job, folder: Path, module: FERModule, loggers: Sequence[Logger], console: Console
) -> Training:
    """Build callbacks and trainer around a module."""
    if config.trainer.compile:
        module.network.compile()  # in place, which keeps the parameter names of checkpoints
    best, last = checkpoints(folder / CHECKPOINTS, config.objective, config.objective_mode)
    progress = TrainingProgress(config.objective, config.objective_mode, console)
    configured = [*config.callbacks.values(), config.finetune.callback]
    callbacks = [progress, *(build(to_container(callback)) for callback in configured if callback), best, last]
    if job.trial and not config.second_objective:
        callbacks.append(Pruning(job.trial, config.objective))
    trainer = build_trainer(config, folder, module.network, logger=loggers, callbacks=callbacks)
    return Training(module, trainer, progress, best)


def print_header(console: Console, job: Job, training: Training, datamodule: FERDataModule, folder: Path) -> None:
    """Print what is trained, on which data and device."""
    network, trainer = training.module.network, training.trainer
    tables.run_header(
        console,
        faces=datamodule.faces,
        split=datamodule.split,
        model=job.choices.get("model", type(network.body).__name__),
        parameters=count_parameters(network),
        device=str(trainer.strategy.root_device),
        precision=str(trainer.precision),
        processes=trainer.world_size,
        folder=folder,
    )


def measure(
    config: DictConfig, training: Training, prepared: PreparedRun, folder: Path, best_row: Mapping[str, float]
) -> tuple[dict[str, Scores], Scores | None]:
    """Measure the part `eval.split` with the weights of the best epoch, and write the report.

    Returns:
        The scores of the part and of its subsets; and those of Kaggle's test images, if the record is published.
    """
    module, datamodule, evaluation = training.module, prepared.datamodule, to_container(config.eval)
    faces, split, part = datamodule.faces, datamodule.split, evaluation["split"]
    resamples = evaluation["bootstrap"]
    predictions = predict_part(training.trainer, module, datamodule, evaluation, part)
    scores = score_part(predictions, part, split, module.classes, resamples, config.seed)
    if is_first_process():
        write_report(folder, faces, predictions, scores, module.history, int(best_row["epoch"]), split.name)
    if not (prepared.published and is_kaggle_test(split, faces)):
        return scores, None
    # half of these images selected the epoch: the scores only serve to compare with sources that report them
    both = Predictions.concatenate(predictions, predict_part(training.trainer, module, datamodule, evaluation, "val"))
    return scores, full_scores(both, module.classes, resamples, config.seed)


def outcome(training: Training, best_row: Mapping[str, float]) -> dict[str, Any]:
    """Return the part of a record that is known after training, before anything is measured."""
    return {
        "machine": machine(training.trainer.strategy.root_device),
        "precision": str(training.trainer.precision),
        "epochs": len(training.module.history),
        "best_epoch": best_row["epoch"],
        "minutes": round(training.progress.seconds / 60, 2),
        "params": count_parameters(training.module.network),
        "train_accuracy": best_row["train/accuracy"],
        "val": {k.removeprefix("val/"): v for k, v in best_row.items() if k.startswith("val/")},
    }


def load_best_epoch(module: FERModule, checkpoint: str, resume: str | None) -> dict[str, float]:
    """Load the weights of the best epoch into a module.

    Args:
        module: The trained module.
        checkpoint: The path of the best checkpoint; empty if no epoch was validated.
        resume: The value of `resume`, for the message.

    Returns:
        The row of that epoch in the history.

    Raises:
        ValueError: No epoch was validated.
    """
    if not checkpoint and not resume:
        raise ValueError("the training ended before an epoch was validated: lower trainer.check_val_every_n_epoch")
    if not checkpoint:
        raise ValueError(
            f"resume={resume}: all of its {len(module.history)} epochs are trained and none was validated on these "
            f"data; train longer with trainer.max_epochs={len(module.history) + 1} or more"
        )
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.load_state_dict(content["state_dict"])
    row: dict[str, float] = content["history"][-1]
    return row


def build_module(config: DictConfig, job: Job, datamodule: FERDataModule, start: StartPoint) -> FERModule:
    """Build the module of a run, including its provenance.

    Args:
        config: The composed configuration.
        job: Hydra's view of the run.
        datamodule: Its data, and how often each class is drawn.
        start: Its start point; if that is a checkpoint, neither `model.weights` nor pretrained weights are loaded.
    """
    faces, split = datamodule.faces, datamodule.split
    omitted = ("weights", "pretrained") if start.path else ()
    origin = Provenance.read(start.hyperparameters["provenance"]) if start.path else weights_provenance(config)
    provenance = {
        "data": faces.name,
        "data_fingerprint": faces.fingerprint,
        "votes_fingerprint": faces.votes_fingerprint,
        "image_shape": list(faces.images.shape[1:]),
        "protocol": split.name,
        "earlier": earlier_trainings([origin] if origin else [], faces, split),
        "objective": config.objective,
        "overrides": [redact(override) for override in job.overrides],
        "config_sources": list(job.sources),
        "config": {k: v for k, v in to_container(config).items() if k not in ("tracking", "paths")},
    }
    return FERModule(
        model={key: value for key, value in to_container(config.model).items() if key not in omitted},
        loss=to_container(config.loss),
        optimizer=to_container(config.optimizer),
        scheduler=to_container(config.scheduler),
        evaluation=to_container(config.eval),
        classes=list(faces.classes),
        class_counts=datamodule.class_counts,
        provenance=provenance,
        on_nan=config.trainer.on_nan,
    )


def open_tracking(
    config: DictConfig, job: Job, head: Mapping[str, Any], faces: FaceArrays, folder: Path, resumed: bool
) -> AbstractContextManager[list[Logger]]:
    """Open the tracked run (conf/tracking): options by group, settings by dotted key, data and code as tags."""
    tag_keys = ("data", "data_fingerprint", "synthetic", "protocol", "commit", "seed", "command")
    tags = {key: str(head[key]).lower() if key == "synthetic" else str(head[key]) for key in tag_keys}
    if job.trial:
        tags |= {"study": job.trial.study.study_name, "trial": str(job.trial.number)}
    options = {group: option for group, option in job.choices.items() if group in GROUPS}
    omitted = ("paths.", "tracking.", "data.source.", "resume")
    params = {k: v for k, v in flatten(to_container(config)).items() if not k.startswith(omitted)}
    tracker: AbstractContextManager[list[Logger]] = build(
        to_container(config.tracking),
        folder=folder,
        run_name=head["name"],
        tags=tags,
        params=params | options,
        sweep_dir=job.sweep_dir,
        dataset={
            "name": faces.name,
            "digest": faces.fingerprint[:12],
            "profile": {"num_rows": len(faces), "shape": faces.images.shape[1:], "classes": faces.classes},
        },
        resumed=resumed,
        parent_id=job.trial and job.trial.study.user_attrs.get(mlflow_parents.STUDY_PARENT),
    )
    return tracker
