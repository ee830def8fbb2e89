"""The processes of a distributed training (DDP)."""

from __future__ import annotations

import torch.distributed as dist
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor


def is_first_process() -> bool:
    """Whether this process prints, writes and tracks; under DDP the other processes only train."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a tensor without gradient over the processes of a training; the tensor itself in a single process."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
