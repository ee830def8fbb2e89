"""Lightning's Trainer as conf/trainer asks for it: devices, precision, and what it says."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from fer_lightning.config import build, plain
from fer_lightning.models.network import is_dense
from fer_lightning.run.job import Job
from fer_lightning.training.checkpoint_io import DurableCheckpointIO


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
        r".*could not find the monitored key.*",  # in epochs without validation; `check_monitored` knows the keys
        r".*use `self.log\(.*sync_dist=True\)`.*",  # every process scores all predictions
    ):
        warnings.filterwarnings("ignore", message=message)
    if not is_first_process():
        logging.getLogger().setLevel(logging.ERROR)


def is_first_process() -> bool:
    """Whether this process prints, writes and tracks; under DDP the others only train."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def be_first_process(config: DictConfig) -> None:
    """Makes a process that trains on its own the first one, whatever rank `srun` or another launcher gave it.

    Under DDP the strategy sets the rank.
    """
    if not is_distributed(config.trainer):
        rank_zero_only.rank = 0  # type: ignore[attr-defined]


def is_distributed(trainer: DictConfig) -> bool:
    """Whether conf/trainer asks for more than one process (DDP)."""
    several = trainer.get("strategy", "auto") != "auto" or trainer.get("num_nodes", 1) != 1
    return several or _device_count(trainer) not in (0, 1, "0", "1")


def _device_count(trainer: DictConfig) -> int | str:
    """How many devices conf/trainer asks for, as a number if it can be read as one."""
    devices = plain(trainer.devices)
    if devices in ("auto", -1, "-1"):
        return torch.cuda.device_count() if trainer.accelerator in ("auto", "gpu", "cuda") else 1
    return len(devices) if isinstance(devices, list) else devices


def uses_cuda(accelerator: str) -> bool:
    """Whether `trainer.accelerator` takes a GPU of CUDA here."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def check_devices(config: DictConfig, job: Job) -> None:
    """Finds devices that are not there, and what several processes (DDP) cannot do.

    Raises:
        ValueError: One sentence that names the setting and the way out.
    """
    trainer, devices = config.trainer, plain(config.trainer.devices)
    listed = devices if isinstance(devices, list) else str(devices).split(",")
    if devices != "auto" and not all(re.fullmatch(r"-1|\d+", str(device)) for device in listed):
        raise ValueError(
            f"trainer.devices is {devices!r}; it must be a number of devices, a list of their numbers, or 'auto'"
        )
    found = torch.cuda.is_available() or (trainer.accelerator == "gpu" and torch.backends.mps.is_available())
    if trainer.accelerator in ("gpu", "cuda") and not found:
        raise ValueError(
            f"trainer.accelerator={trainer.accelerator}: PyTorch finds no GPU here; auto takes the best device there is"
        )
    count = _device_count(trainer)
    if (
        uses_cuda(trainer.accelerator)
        and not isinstance(devices, list)
        and str(count).isdecimal()
        and int(count) > torch.cuda.device_count()
    ):
        raise ValueError(f"trainer.devices={devices}: PyTorch finds {torch.cuda.device_count()} GPUs here")
    processes = (int(count) if str(count).isdecimal() else 1) * int(trainer.get("num_nodes", 1))
    check_shares(config.trainer.batch_size, processes)
    if not is_distributed(trainer):
        return
    if job.sweep_dir:
        raise ValueError("trainer=ddp does not work in a multirun: leave -m out, or give each job one device")
    if trainer.on_nan == "skip":
        raise ValueError("trainer.on_nan=skip needs one process: with trainer=ddp it must be stop")
    if config.finetune.callback and config.finetune.callback.get("frozen_epochs") is not None:
        raise ValueError("finetune=gradual thaws layers while it trains, which DDP cannot follow: use full or frozen")


def check_shares(batch_size: int, processes: int) -> None:
    """Refuses batches of which the processes would get unequal shares.

    Raises:
        ValueError: The size is no multiple of their number.
    """
    if batch_size % max(1, processes):
        raise ValueError(f"trainer.batch_size={batch_size} cannot be shared evenly by {processes} processes")


def choose_precision(requested: str, network: torch.nn.Module, accelerator: str) -> str:
    """The precision that `trainer.precision=auto` stands for: `bf16-mixed` where it is faster, else `32-true`.

    Faster it is on GPUs that have it, and on CPUs whose instruction set has it for networks of dense convolutions;
    depthwise ones are slower in bfloat16 there.
    """
    if requested != "auto":
        return requested
    if uses_cuda(accelerator):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # new in torch 2.13
        fast = capabilities.get("avx512_bf16", False) and is_dense(network)
    return "bf16-mixed" if fast else "32-true"


def build_trainer(config: DictConfig, folder: Path, network: torch.nn.Module, **kwargs: Any) -> pl.Trainer:
    """conf/trainer as a Lightning Trainer that writes nothing of its own to the terminal."""
    options = {k: v for k, v in plain(config.trainer).items() if k not in ("batch_size", "compile", "on_nan")}
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
    check_shares(config.trainer.batch_size, trainer.world_size)
    return trainer
