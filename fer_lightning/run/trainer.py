"""Lightning's Trainer from conf/trainer: devices, precision and log output."""

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

from fer_lightning.config import build, to_container
from fer_lightning.models.network import is_dense
from fer_lightning.run.job import Job
from fer_lightning.training.checkpoint_io import DurableCheckpointIO
from fer_lightning.training.processes import is_first_process


def quiet() -> None:
    """Silence start-up warnings of Lightning and other libraries that need no action."""
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
        r".*Experiment logs directory .* exists and is not empty.*",  # a resumed run rewrites its csv
        r".*`training_step` returned `None`.*",
        r".*could not find the monitored key.*",  # in epochs without validation; `check_monitored` checks the keys
        r".*use `self.log\(.*sync_dist=True\)`.*",  # every process scores all predictions
    ):
        warnings.filterwarnings("ignore", message=message)
    if not is_first_process():
        logging.getLogger().setLevel(logging.ERROR)


def become_first_process(config: DictConfig) -> None:
    """Set the rank of a process that trains alone to 0, whatever rank `srun` or another launcher gave it.

    Under DDP the strategy sets the rank.
    """
    if not is_distributed(config.trainer):
        rank_zero_only.rank = 0  # type: ignore[attr-defined]


def is_distributed(trainer: DictConfig) -> bool:
    """Whether conf/trainer requests more than one process (DDP)."""
    several = trainer.get("strategy", "auto") != "auto" or trainer.get("num_nodes", 1) != 1
    return several or _device_count(trainer) not in (0, 1, "0", "1")


def _device_count(trainer: DictConfig) -> int | str:
    """Return the number of devices that conf/trainer requests; a value that is not a number is returned unchanged."""
    devices = to_container(trainer.devices)
    if devices in ("auto", -1, "-1"):
        return torch.cuda.device_count() if trainer.accelerator in ("auto", "gpu", "cuda") else 1
    return len(devices) if isinstance(devices, list) else devices


def uses_cuda(accelerator: str) -> bool:
    """Whether `trainer.accelerator` takes a GPU of CUDA here."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def check_devices(config: DictConfig, job: Job) -> None:
    """Refuse devices that do not exist, and settings that several processes (DDP) do not support.

    Raises:
        ValueError: The message names the setting and the remedy.
    """
    trainer, devices = config.trainer, to_container(config.trainer.devices)
    listed = devices if isinstance(devices, list) else str(devices).split(",")
    if devices != "auto" and not all(re.fullmatch(r"-1|\d+", str(device)) for device in listed):
        raise ValueError(
            f"trainer.devices is {devices!r}; it must be a number of devices, a list of their numbers, or 'auto'"
        )
    gpu_found = torch.cuda.is_available() or (trainer.accelerator == "gpu" and torch.backends.mps.is_available())
    if trainer.accelerator in ("gpu", "cuda") and not gpu_found:
        raise ValueError(
            f"trainer.accelerator={trainer.accelerator}: PyTorch finds no GPU; auto selects the best available device"
        )
    count = _device_count(trainer)
    if (
        uses_cuda(trainer.accelerator)
        and not isinstance(devices, list)
        and str(count).isdecimal()
        and int(count) > torch.cuda.device_count()
    ):
        raise ValueError(f"trainer.devices={devices}: PyTorch finds {torch.cuda.device_count()} GPUs")
    processes = (int(count) if str(count).isdecimal() else 1) * int(trainer.get("num_nodes", 1))
    check_batch_size(config.trainer.batch_size, processes)
    if not is_distributed(trainer):
        return
    if job.sweep_dir:
        raise ValueError("trainer=ddp does not work in a multirun: remove -m, or give each job one device")
    if trainer.on_nan == "skip":
        raise ValueError("trainer.on_nan=skip needs a single process: with trainer=ddp use trainer.on_nan=stop")
    if config.finetune.callback and config.finetune.callback.get("frozen_epochs") is not None:
        raise ValueError(
            "finetune=gradual unfreezes layers during training, which DDP does not support: use full or frozen"
        )


def check_batch_size(batch_size: int, processes: int) -> None:
    """Refuse a batch size that the processes cannot divide evenly.

    Raises:
        ValueError: The batch size is not a multiple of the number of processes.
    """
    if batch_size % max(1, processes):
        raise ValueError(f"trainer.batch_size={batch_size} cannot be divided evenly among {processes} processes")


def choose_precision(requested: str, network: torch.nn.Module, accelerator: str) -> str:
    """Resolve `trainer.precision=auto`: `bf16-mixed` where it is faster, else `32-true`.

    It is faster on GPUs that support bfloat16, and on CPUs with AVX512-BF16 for networks of dense convolutions;
    depthwise convolutions are slower in bfloat16 there.
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
    """Build a Lightning Trainer from conf/trainer, without its own terminal output."""
    options = {k: v for k, v in to_container(config.trainer).items() if k not in ("batch_size", "compile", "on_nan")}
    options["precision"] = choose_precision(options["precision"], network, options["accelerator"])
    # cuDNN times its kernels for each shape of a batch once; a training has few shapes
    options.setdefault("benchmark", uses_cuda(options["accelerator"]) and not options["deterministic"])
    trainer: pl.Trainer = build(
        options,
        default_root_dir=str(folder),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # EpochSampler splits the batches among the processes
        plugins=[DurableCheckpointIO()],
        **kwargs,
    )
    check_batch_size(config.trainer.batch_size, trainer.world_size)
    return trainer
