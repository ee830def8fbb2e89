"""train(config): instantiate, fit, test, report."""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console

from fer_lightning.config import build, check, flatten, nearest, plain
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.datamodule import FERDataModule
from fer_lightning.data.protocols import Split, is_leaky
from fer_lightning.job import GROUPS, Job, run_name
from fer_lightning.models.cost import cost
from fer_lightning.models.network import count_parameters, is_dense, weights_origin
from fer_lightning.rehearsal import check_logged, monitored, read_checkpoint, rehearse
from fer_lightning.reporting import mlflow_parents, records, tables, tracking
from fer_lightning.reporting.report import write_report
from fer_lightning.training.allocator import keep_freed_memory
from fer_lightning.training.callbacks import TrainingProgress, checkpoints
from fer_lightning.training.checkpoint_io import DurableCheckpointIO
from fer_lightning.training.evaluation import evaluate_kaggle_test, evaluate_part, is_kaggle_test, tracked
from fer_lightning.training.metrics import EPOCH_SCORES, Scores
from fer_lightning.training.module import FERModule
from fer_lightning.training.pruning import Pruning
from fer_lightning.training.resume import RunState, go_on, settings
from fer_lightning.training.trouble import calm_end, one_clear_sentence, trouble_in_words

log = logging.getLogger(__name__)


def quiet() -> None:
    """Silences what Lightning and others say at every start and nobody can act on."""
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for message in (
        r".*does not have many workers.*",
        r".*GPU available but not used.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*number of training batches .* is smaller than the logging interval.*",
        r".*LeafSpec.*",
        r".*isinstance\(treespec.*",
        r".*You are using the `weights_only`.*",
        r".*Experiment logs directory .* exists and is not empty.*",  # a resumed run writes its csv anew
        r".*`training_step` returned `None`.*",
        r".*use `self.log\(.*sync_dist=True\)`.*",  # every process scores all predictions
    ):
        warnings.filterwarnings("ignore", message=message)
    if not is_first_process():
        logging.getLogger().setLevel(logging.ERROR)


def is_first_process() -> bool:
    """Whether this process prints, writes and tracks; under DDP the others only train."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def check_devices(config: DictConfig, job: Job) -> None:
    """Finds devices that are not there, and what several processes (DDP) cannot do.

    Raises:
        ValueError: One sentence that names the setting and the way out.
    """
    trainer, devices = config.trainer, config.trainer.devices
    found = torch.cuda.is_available() or (trainer.accelerator == "gpu" and torch.backends.mps.is_available())
    if trainer.accelerator in ("gpu", "cuda") and not found:
        raise ValueError(
            f"trainer.accelerator={trainer.accelerator}: PyTorch finds no GPU here; auto takes the best device there is"
        )
    if devices in ("auto", -1, "-1"):
        count = torch.cuda.device_count() if trainer.accelerator in ("auto", "gpu", "cuda") else 1
    else:
        count = len(plain(devices)) if OmegaConf.is_list(devices) else devices
    several = trainer.get("strategy", "auto") != "auto" or trainer.get("num_nodes", 1) > 1
    if not several and count in (0, 1, "0", "1"):
        return
    if job.sweep_dir:
        raise ValueError("trainer=ddp does not work in a multirun: leave -m out, or give each job one device")
    if trainer.on_nan == "skip":
        raise ValueError("trainer.on_nan=skip needs one process: with trainer=ddp it must be stop")
    if config.finetune.callback and config.finetune.callback.get("frozen_epochs") is not None:
        raise ValueError("finetune=gradual thaws layers while it trains, which DDP cannot follow: use full or frozen")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps a folder to one run; the lock goes with the process, however it ends.

    Raises:
        ValueError: Another process trains there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(f"{folder} belongs to a run that another process is training at this moment") from None


def choose_precision(requested: str, network: torch.nn.Module, accelerator: str) -> str:
    """What `trainer.precision=auto` stands for: `bf16-mixed` where it is faster, else `32-true`.

    Faster it is on GPUs that have it, and on CPUs whose instruction set has it for networks of dense convolutions;
    depthwise ones are slower in bfloat16 there.
    """
    if requested != "auto":
        return requested
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # new in torch 2.13
        fast = capabilities.get("avx512_bf16", False) and is_dense(network)
    return "bf16-mixed" if fast else "32-true"


def warn_of_frozen_noise(config: DictConfig) -> None:
    """Says so when features are frozen that never learnt anything."""
    learnt = config.model.get("pretrained") or config.model.get("weights") or config.resume
    if config.finetune.callback and not learnt:
        log.warning("finetune freezes random features: set model.pretrained=true or model.weights=file.safetensors")


def prepare_data(config: DictConfig) -> tuple[FaceArrays, Split, FERDataModule]:
    """Reads the data set, splits it and wraps it."""
    faces: FaceArrays = build(plain(config.data.source))
    for sentence in faces.skipped[:5]:
        log.warning("left out: %s", sentence)
    if len(faces.skipped) > 5:
        log.warning("left out: %d more pictures", len(faces.skipped) - 5)
    split: Split = build(plain(config.protocol), faces)
    if split.faces is not None:
        faces = split.faces
    if config.eval.split not in split.indices:
        raise ValueError(
            f"eval.split={config.eval.split}: protocol {split.name} has no such part"
            f"{nearest(config.eval.split, split.indices)} There are {', '.join(split.indices)}"
        )
    if split.is_leaky and config.paths.results_dir:
        raise ValueError(
            f"protocol {split.name} leaks, so its numbers are no results and do not go to "
            f"paths.results_dir={config.paths.results_dir}; `python -m fer_lightning leaks` collects them"
        )
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


def place_of_result(config: DictConfig, job: Job) -> Path | None:
    """The file in `paths.results_dir` that the run's record goes to, None without such a folder.

    Raises:
        ValueError: It measures another part than `test`, or the file holds what another command measured.
    """
    if not config.paths.results_dir:
        return None
    if config.eval.split != "test":
        raise ValueError(f"paths.results_dir takes what was measured on test alone; eval.split is {config.eval.split}")
    path = Path(config.paths.results_dir) / f"{job.label}_seed{config.seed}.json"
    if path.is_file():
        before = shlex.split(records.read_record(path, "command")["command"])[2:]
        if records.settings_typed(before) != records.settings_typed(job.overrides):
            raise ValueError(
                f"{path} holds what `python train.py {shlex.join(before)}` measured: move it away, or give this run "
                "another paths.results_dir"
            )
    return path


def check_data(checkpoint: Path, faces: FaceArrays, protocol: str, console: Console, *, same: bool) -> None:
    """Refuses to go on from a checkpoint of other classes or another protocol, or of other data than the `same`.

    Raises:
        ValueError: The class names or their order differ, or the protocol or the data do.
    """
    then = read_checkpoint(checkpoint)["hyper_parameters"]
    refuse_what_it_learnt(f"resume={checkpoint}", then["provenance"], faces, protocol)
    if list(then["classes"]) != list(faces.classes):
        raise ValueError(
            f"resume={checkpoint} knows the classes {', '.join(then['classes'])}; "
            f"{faces.name} has {', '.join(faces.classes)}, and their order counts"
        )
    if then["provenance"]["data_fingerprint"] != faces.fingerprint:
        if same:
            raise ValueError(
                f"resume=auto: the data have changed since {checkpoint} was written; leave it out to start anew, "
                f"or give resume={checkpoint} to go on with other data"
            )
        console.print(f"[yellow]{checkpoint} was trained on other data than {faces.name} here.[/]")


def refuse_what_it_learnt(named: str, origin: Mapping[str, Any], faces: FaceArrays, protocol: str) -> None:
    """Refuses to start from a net that has learnt what the run is measured on.

    Args:
        named: The word that names the net, for the message.
        origin: Its provenance; empty where it does not say.
        faces: The run's data.
        protocol: The run's.

    Raises:
        ValueError: It was trained on these pictures under another protocol, or under one that leaks.
    """
    learnt = origin.get("protocol", protocol)
    if learnt != protocol and (origin.get("data_fingerprint") == faces.fingerprint or is_leaky(learnt)):
        raise ValueError(
            f"{named} was trained under protocol {learnt}; under {protocol} it would be measured on "
            "pictures that it has learnt: start anew, or keep its protocol"
        )


def build_trainer(config: DictConfig, folder: Path, network: torch.nn.Module, **kwargs: Any) -> pl.Trainer:
    """conf/trainer as a Lightning Trainer that writes nothing of its own to the terminal."""
    options = {k: v for k, v in plain(config.trainer).items() if k not in ("batch_size", "on_nan")}
    options["precision"] = choose_precision(options["precision"], network, options["accelerator"])
    trainer: pl.Trainer = build(
        options,
        default_root_dir=str(folder),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # EpochSampler gives each process its share
        plugins=[DurableCheckpointIO()],
        **kwargs,
    )
    if config.trainer.batch_size % trainer.world_size:
        raise ValueError(
            f"trainer.batch_size={config.trainer.batch_size} cannot be shared evenly by {trainer.world_size} processes"
        )
    return trainer


def place_to_go_on(config: DictConfig, folder: Path, console: Console) -> tuple[Path | None, RunState | None]:
    """The checkpoint that `resume` stands for and the run in the folder that goes on; None where there is none.

    Raises:
        ValueError: The folder holds a run of other settings.
    """
    if config.resume != "auto":
        state = RunState.read(folder) if config.resume else None
        same = state is not None and state.settings == settings(config)
        return (Path(config.resume) if config.resume else None), (state if same else None)
    state = go_on(folder, settings(config))
    last = folder / "checkpoints" / "last.ckpt"
    if state is None:
        console.print("resume=auto: no earlier run of this configuration was found, this one starts anew")
    elif state.objective is None and not last.is_file():
        console.print(f"resume=auto: the run in {folder} did not end an epoch, it starts anew")
    return (last if state and last.is_file() else None), state


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
    keep_freed_memory()
    job, first = Job.current(), is_first_process()
    console = Console(quiet=not first)
    folder = Path(config.paths.output_dir).absolute()
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    ending = calm_end(folder, job.goes_on)
    with ending, trouble_in_words(config), ExitStack() as stack:
        with one_clear_sentence():
            check(config)
            check_devices(config, job)
            if first:
                stack.enter_context(alone_in(folder))
            checkpoint, earlier = place_to_go_on(config, folder, console)
            rehearse(config, checkpoint)
            published = place_of_result(config, job)
            pl.seed_everything(config.seed, workers=True, verbose=False)
            faces, split, datamodule = prepare_data(config)
            for key, name in monitored(config).items():
                check_logged(key, name, [*EPOCH_SCORES, *(f"f1_{c}" for c in faces.classes)])
            if weights := config.model.get("weights"):
                refuse_what_it_learnt(f"model.weights={weights}", weights_origin(Path(weights)), faces, split.name)
            if checkpoint:
                check_data(checkpoint, faces, split.name, console, same=config.resume == "auto")
            if config.resume == "auto" and earlier and earlier.objective is not None:
                ended = f"{folder}: this run has ended, {config.objective} {earlier.objective}"
                console.print(f"{ended}; nothing is left to do", soft_wrap=True)
                return earlier.objective
            if checkpoint:
                epoch = read_checkpoint(checkpoint)["history"][-1]["epoch"]
                datamodule.first_epoch = epoch
                console.print(f"goes on after epoch {epoch} with {checkpoint}", soft_wrap=True)
            module = build_module(config, job, faces, split, datamodule)
            warn_of_frozen_noise(config)
            told = description(config, job, faces, split)
            if first:
                if not checkpoint:  # of an older run in the same folder
                    (folder / "checkpoints" / "last.ckpt").unlink(missing_ok=True)
                RunState(settings(config)).write(folder)
            loggers = stack.enter_context(open_tracking(config, job, told, folder, resumed=earlier is not None))
            best, last = checkpoints(folder / "checkpoints", config.objective, config.objective_mode)
            progress = TrainingProgress(config.objective, config.objective_mode, console)
            chosen = [*config.callbacks.values(), config.finetune.callback]
            callbacks = [progress, *(build(plain(callback)) for callback in chosen if callback), best, last]
            if job.trial and not config.second_objective:
                callbacks.append(Pruning(job.trial, config.objective))
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
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
        with one_clear_sentence():
            if not best.best_model_path:
                raise ValueError(
                    f"resume={config.resume}: its {len(module.history)} epochs are over, and none was measured on "
                    f"these data; go on for longer with trainer.max_epochs={len(module.history) + 1} or more"
                )
        chosen_epoch = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        module.load_state_dict(chosen_epoch["state_dict"])
        best_row = chosen_epoch["history"][-1]
        scores: dict[str, Scores] = {}
        if not job.trial:
            scores = evaluate_part(trainer, module, datamodule, plain(config.eval), config.seed)
            assert module.test_predictions is not None
            best_epoch = int(best_row["epoch"])
            if first:
                write_report(folder, faces, module.test_predictions, scores, module.history, best_epoch, split.name)
        record = {
            **told,
            "precision": str(trainer.precision),
            "epochs": len(module.history),
            "best_epoch": best_row["epoch"],
            "minutes": round(progress.seconds / 60, 2),
            "params": count_parameters(module.network),
            "train_accuracy": best_row["train/accuracy"],
            "val": {k.removeprefix("val/"): v for k, v in best_row.items() if k.startswith("val/")},
            **{part: records.recorded(row) for part, row in scores.items()},
        }
        if first:
            (folder / "config.yaml").write_text(records.masked(OmegaConf.to_yaml(config, resolve=True)))
            records.write_json(folder / "record.json", record)
        if published and scores:
            if is_kaggle_test(split, faces):
                kaggle = evaluate_kaggle_test(trainer, module, datamodule, plain(config.eval), config.seed)
                record["kaggle_test"] = records.recorded(kaggle)
            if first:
                records.write_json(published, record)
        measured = {f"{part}/{k}": v for part, row in scores.items() for k, v in tracked(row).items()}
        objective = float(best_row[config.objective])
        if second := config.second_objective:
            measured[second] = cost(second, module.network)
        for logger in loggers:
            logger.log_metrics(measured, step=int(best_row["epoch"]))
    result = (objective, measured[second]) if second else objective
    if first:
        RunState(settings(config), result).write(folder)
    if scores:
        console.print(tables.test_table(scores, module.classes))
        tables.results_files(console, folder, tracking.where(loggers))
    return result


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
        on_nan=config.trainer.on_nan,
    )


def open_tracking(
    config: DictConfig, job: Job, told: Mapping[str, Any], folder: Path, *, resumed: bool = False
) -> AbstractContextManager[list[Logger]]:
    """The tracked run (conf/tracking): options by group name, every key by its dotted name, tags for what it ran on."""
    tagged = ("data", "data_fingerprint", "synthetic", "protocol", "commit", "seed", "command")
    tags = {key: str(told[key]).lower() if key == "synthetic" else str(told[key]) for key in tagged}
    if job.trial:
        tags |= {"study": job.trial.study.study_name, "trial": str(job.trial.number)}
    options = {group: option for group, option in job.choices.items() if group in GROUPS}
    left_out = ("paths.", "tracking.", "data.source.", "resume")
    params = {k: v for k, v in flatten(plain(config)).items() if not k.startswith(left_out)}
    opened: AbstractContextManager[list[Logger]] = build(
        plain(config.tracking),
        folder=folder,
        run_name=told["name"],
        tags=tags,
        params=params | options,
        sweep_dir=job.sweep_dir,
        resumed=resumed,
        parent_id=job.trial and job.trial.study.user_attrs.get(mlflow_parents.STUDY_PARENT),
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
        "leaky": split.is_leaky,
        "pictures": {part: len(index) for part, index in split.indices.items()},
        "evaluation": plain(config.eval),
        "command": records.masked(records.command(job.overrides)),
        "commit": records.commit(),
        "machine": records.machine(),
        "versions": records.versions(),
    }
