"""train(config): instantiate, fit, test, report."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from rich.console import Console

from fer_lightning.config import build, check, flatten, plain
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.datamodule import FERDataModule
from fer_lightning.data.protocols import Split
from fer_lightning.models.cost import cost
from fer_lightning.models.network import count_parameters, is_dense
from fer_lightning.reporting import records, tables, tracking
from fer_lightning.reporting.report import write_report
from fer_lightning.training.callbacks import TrainingProgress, checkpoints
from fer_lightning.training.metrics import EPOCH_SCORES, Predictions, Scores, full_scores
from fer_lightning.training.module import FERModule
from fer_lightning.training.pruning import Pruning
from hydra_plugins.fer_optuna_sweeper import current_trial

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

GROUPS = (
    "data",
    "protocol",
    "augmentation",
    "model",
    "loss",
    "optimizer",
    "scheduler",
    "finetune",
    "trainer",
    "callbacks",
    "eval",
    "experiment",
    "search",
)
"""The groups whose chosen option is logged by name, so that runs can be searched by `params.model`."""


@contextmanager
def one_clear_sentence() -> Iterator[None]:
    """Shows a user's mistake as its message alone; HYDRA_FULL_ERROR=1 shows the traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise CompactHydraException(str(error)) from None


@dataclass(frozen=True)
class Job:
    """What Hydra knows of this run; empty where the config was composed without it.

    Attributes:
        choices: The option chosen of each group.
        overrides: What was typed, for example `optimizer.lr=1e-4`.
        sweep_dir: The multirun's folder, or None.
        trial: The trial that this run is, where Optuna sweeps.
    """

    choices: Mapping[str, str]
    overrides: tuple[str, ...]
    sweep_dir: Path | None
    trial: optuna.Trial | None = None

    @classmethod
    def current(cls) -> Job:
        """The job that runs now."""
        if not HydraConfig.initialized():
            return cls({}, (), None)
        hydra = HydraConfig.get()
        choices = {k: str(v) for k, v in hydra.runtime.choices.items() if "/" not in k and v is not None}
        sweep = Path(hydra.sweep.dir).absolute() if hydra.mode == RunMode.MULTIRUN else None
        return cls(choices, tuple(hydra.overrides.task), sweep, current_trial())

    @property
    def label(self) -> str:
        """Experiment or model: what a person calls this run first."""
        return self.choices.get("experiment") or self.choices.get("model") or "run"


def quiet() -> None:
    """Silences what Lightning and others say at every start and nobody can act on."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        r".*does not have many workers.*",
        r".*GPU available but not used.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*number of training batches .* is smaller than the logging interval.*",
        r".*LeafSpec.*",
        r".*isinstance\(treespec.*",
        r".*You are using the `weights_only`.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def choose_precision(requested: str, network: torch.nn.Module, accelerator: str) -> str:
    """What `trainer.precision=auto` stands for: `bf16-mixed` where it is faster, else `32-true`.

    Faster it is on GPUs that have it, and on CPUs whose instruction set has it for networks of dense convolutions;
    depthwise ones are slower in bfloat16 there.
    """
    if requested != "auto":
        return requested
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = torch.cpu.get_capabilities().get("avx512_bf16", False) and is_dense(network)
    return "bf16-mixed" if fast else "32-true"


def run_name(job: Job, seed: int) -> str:
    """A name that tells runs apart: what was trained, what was changed, which seed."""
    told = (
        "experiment=",
        "search=",
        "model=",
        "seed=",
        "paths.",
        "tracking",
        "hydra",
        "resume=",
        "data.path=",
        "data.votes_path=",
    )
    changed = [o.lstrip("+") for o in job.overrides if not o.lstrip("+").startswith(told)]
    number = [f"#{job.trial.number}"] if job.trial else []
    return " ".join([job.label, *number, *changed, f"seed={seed}"])


def evaluate_part(
    trainer: pl.Trainer,
    module: FERModule,
    datamodule: FERDataModule,
    evaluation: Mapping[str, Any],
    seed: int,
) -> dict[str, Scores]:
    """Measures `eval.split` and those of its subsets that the protocol names (`test_deduplicated`).

    The predictions stay in `module.test_predictions`.
    """
    part = evaluation["split"]
    module.set_evaluation(evaluation)
    datamodule.measured_part = part
    trainer.test(module, datamodule=datamodule, verbose=False)
    predictions = module.test_predictions
    assert predictions is not None
    scores = {}
    for name, index in datamodule.split.indices.items():
        if name == part or name.startswith(f"{part}_"):
            chosen = predictions.part(torch.from_numpy(index))
            if len(chosen.labels):
                scores[name] = full_scores(chosen, module.classes, evaluation["bootstrap"], seed)
    return scores


def evaluate_kaggle_test(
    trainer: pl.Trainer,
    module: FERModule,
    datamodule: FERDataModule,
    evaluation: Mapping[str, Any],
    seed: int,
) -> Scores:
    """Measures PublicTest and PrivateTest together, on which many sources report, given the predictions of the latter.

    Half of these pictures chose the epoch: the figure serves to compare with such sources, for nothing else.
    """
    test = module.test_predictions
    assert test is not None
    evaluate_part(trainer, module, datamodule, {**evaluation, "split": "val"}, seed)
    assert module.test_predictions is not None
    both = Predictions.joined(test, module.test_predictions)
    module.test_predictions = test
    return full_scores(both, module.classes, evaluation["bootstrap"], seed)


def check_objective(objective: str, classes: Sequence[str]) -> None:
    """Refuses an objective that no epoch will have.

    Raises:
        ValueError: It is none of the logged `val/...` scores; the message lists them.
    """
    logged = [f"val/{name}" for name in (*EPOCH_SCORES, *(f"f1_{c}" for c in classes))]
    if objective not in logged:
        raise ValueError(f"objective is {objective!r}; it must be one of {', '.join(logged)}")


def warn_of_frozen_noise(config: DictConfig) -> None:
    """Says so when features are frozen that never learnt anything."""
    learnt = config.model.get("pretrained") or config.model.get("weights") or config.resume
    if config.finetune.callback and not learnt:
        log.warning("finetune freezes random features: set model.pretrained=true or model.weights=file.safetensors")


def tracked(scores: Scores) -> dict[str, float]:
    """The numbers of one part that a logger gets: all single scores, and F1 of each class as `f1_happy`."""
    single = {k: v for k, v in scores.items() if isinstance(v, float)}
    return single | {f"f1_{name}": f1 for name, f1 in scores["per_class_f1"].items()}


def prepare_data(config: DictConfig) -> tuple[FaceArrays, Split, FERDataModule]:
    """Reads the data set, splits it and wraps it."""
    faces: FaceArrays = build(plain(config.data.source))
    for sentence in faces.skipped[:5]:
        log.warning("left out: %s", sentence)
    if len(faces.skipped) > 5:
        log.warning("left out: %d more pictures", len(faces.skipped) - 5)
    split: Split = build(plain(config.protocol), faces)
    datamodule = FERDataModule(
        faces,
        split,
        batch_size=config.trainer.batch_size,
        augmentation=plain(config.augmentation),
        sampler=config.data.sampler,
        targets=config.data.targets,
        resident=config.data.resident,
        workers=config.data.workers,
        seed=config.seed,
    )
    return faces, split, datamodule


def build_trainer(config: DictConfig, folder: Path, network: torch.nn.Module, **kwargs: Any) -> pl.Trainer:
    """conf/trainer as a Lightning Trainer that writes nothing of its own to the terminal."""
    options = {k: v for k, v in plain(config.trainer).items() if k != "batch_size"}
    options["precision"] = choose_precision(options["precision"], network, options["accelerator"])
    trainer: pl.Trainer = build(
        options,
        default_root_dir=str(folder),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )
    return trainer


def train(config: DictConfig) -> float | tuple[float, float]:
    """Trains, chooses the best epoch on the val part, measures the test part once, and reports.

    A trial of a sweep neither measures nor reports: trials are compared on the val part, and the test part waits for
    the one that is chosen.

    Args:
        config: The composed configuration (`conf/config.yaml`).

    Returns:
        The best value of `config.objective`, which sweeps optimise; with `config.second_objective` also that one's.

    Raises:
        optuna.TrialPruned: This run is a trial, and its pruner stopped it.
    """
    quiet()
    job = Job.current()
    console = Console()
    folder = Path(os.path.relpath(config.paths.output_dir))
    with ExitStack() as stack:
        with one_clear_sentence():
            check(config)
            pl.seed_everything(config.seed, workers=True, verbose=False)
            faces, split, datamodule = prepare_data(config)
            check_objective(config.objective, faces.classes)
            module = build_module(config, job, faces, split, datamodule)
            warn_of_frozen_noise(config)
            folder.mkdir(parents=True, exist_ok=True)
            told = description(config, job, faces, split)
            loggers = stack.enter_context(open_tracking(config, job, told, folder))
            best, last = checkpoints(folder / "checkpoints", config.objective, config.objective_mode)
            progress = TrainingProgress(config.objective, config.objective_mode, console)
            chosen = [*config.callbacks.values(), config.finetune.callback]
            callbacks = [progress, *(build(plain(callback)) for callback in chosen if callback), best, last]
            if job.trial and not config.second_objective:
                callbacks.append(Pruning(job.trial, config.objective))
            timer = pl.callbacks.Timer()  # its time lies in the checkpoint, so a resumed run counts all of it
            callbacks.append(timer)
            trainer = build_trainer(config, folder, module.network, logger=loggers, callbacks=callbacks)
        tables.run_header(
            console,
            faces=faces,
            split=split,
            model=job.choices.get("model", type(module.network.body).__name__),
            parameters=count_parameters(module.network),
            device=str(trainer.strategy.root_device),
            precision=str(trainer.precision),
            folder=folder,
        )
        trainer.fit(module, datamodule=datamodule, ckpt_path=config.resume, weights_only=True)
        checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        module.load_state_dict(checkpoint["state_dict"])
        best_row = checkpoint["history"][-1]
        scores: dict[str, Scores] = {}
        if not job.trial:
            scores = evaluate_part(trainer, module, datamodule, plain(config.eval), config.seed)
            assert module.test_predictions is not None
            write_report(folder, faces, module.test_predictions, scores, module.history, int(best_row["epoch"]))
        (folder / "config.yaml").write_text(tracking.masked(OmegaConf.to_yaml(config, resolve=True)))
        record = {
            **told,
            "precision": str(trainer.precision),
            "epochs": len(module.history),
            "best_epoch": best_row["epoch"],
            "minutes": round(timer.time_elapsed("train") / 60, 2),
            "params": count_parameters(module.network),
            "val": {k.removeprefix("val/"): v for k, v in best_row.items() if k.startswith("val/")},
            **{part: records.recorded(row) for part, row in scores.items()},
        }
        records.write_json(folder / "record.json", record)
        if config.paths.results_dir and scores:
            kaggle = evaluate_kaggle_test(trainer, module, datamodule, plain(config.eval), config.seed)
            record |= {"kaggle_test": records.recorded(kaggle), "latency_ms": round(cost("latency", module.network), 2)}
            published = f"{job.label}_seed{config.seed}.json"
            records.write_json(Path(config.paths.results_dir) / published, record)
        measured = {f"{part}/{k}": v for part, row in scores.items() for k, v in tracked(row).items()}
        objective = float(best_row[config.objective])
        if second := config.second_objective:
            measured[second] = cost(second, module.network)
        for logger in loggers:
            logger.log_metrics(measured, step=int(best_row["epoch"]))
    if scores:
        console.print(tables.test_table(scores, module.classes))
        tables.results_files(console, folder, tracking.where(loggers))
    return (objective, measured[second]) if second else objective


def build_module(config: DictConfig, job: Job, faces: FaceArrays, split: Split, datamodule: FERDataModule) -> FERModule:
    """The module of a run, with all that says where it comes from."""
    provenance = {
        "data": faces.name,
        "data_fingerprint": faces.fingerprint,
        "protocol": split.name,
        "objective": config.objective,
        "overrides": list(job.overrides),
        "config": {k: v for k, v in plain(config).items() if k not in ("tracking", "paths")},
    }
    return FERModule(
        model=plain(config.model),
        loss=plain(config.loss),
        optimizer=plain(config.optimizer),
        scheduler=plain(config.scheduler),
        evaluation=plain(config.eval),
        classes=list(faces.classes),
        class_counts=datamodule.class_counts,
        provenance=provenance,
    )


def open_tracking(
    config: DictConfig, job: Job, told: Mapping[str, Any], folder: Path
) -> AbstractContextManager[list[Logger]]:
    """The tracked run (conf/tracking): options by group name, every key by its dotted name, tags for what it ran on."""
    tagged = ("data", "data_fingerprint", "synthetic", "protocol", "commit", "seed", "command")
    tags = {key: str(told[key]).lower() if key == "synthetic" else str(told[key]) for key in tagged}
    if job.trial:
        tags |= {"study": job.trial.study.study_name, "trial": str(job.trial.number)}
    options = {group: option for group, option in job.choices.items() if group in GROUPS}
    settings = flatten(plain(config))
    params = {k: v for k, v in settings.items() if not k.startswith(("paths.", "tracking.", "data.source."))}
    opened: AbstractContextManager[list[Logger]] = build(
        plain(config.tracking),
        folder=folder,
        run_name=told["name"],
        tags=tags,
        params=params | options,
        sweep_dir=job.sweep_dir,
        parent_id=job.trial and job.trial.study.user_attrs.get(tracking.STUDY_PARENT),
    )
    return opened


def description(config: DictConfig, job: Job, faces: FaceArrays, split: Split) -> dict[str, Any]:
    """What a run is, before it has run: the head of its record."""
    return {
        "experiment": job.choices.get("experiment"),
        "name": run_name(job, config.seed),
        "seed": config.seed,
        "data": faces.name,
        "data_fingerprint": faces.fingerprint,
        "synthetic": faces.is_synthetic,
        "protocol": split.name,
        "evaluation": plain(config.eval),
        "command": tracking.masked(records.command([o for o in job.overrides if not o.startswith("resume=")])),
        "commit": records.commit(),
        "machine": records.machine(),
        "versions": records.versions(),
    }
