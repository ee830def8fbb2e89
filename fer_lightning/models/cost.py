"""What a network costs to run: latency, multiply-accumulates, parameters."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from fer_lightning.models.network import FERNetwork, count_parameters


def latency(network: FERNetwork, seconds: float = 0.5) -> float:
    """Median time of one face on one CPU thread, in milliseconds, in float32 and without any compilation.

    Args:
        network: Stays as it is; a copy is measured.
        seconds: How long to measure; at least 20 faces.
    """
    measured = copy.deepcopy(network).cpu().float().eval()
    face = torch.zeros(1, network.channels, network.image_size, network.image_size)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return median_milliseconds(lambda: measured(face), seconds)
    finally:
        torch.set_num_threads(threads)


def median_milliseconds(run: Callable[[], object], seconds: float = 0.5) -> float:
    """Median time of a call in milliseconds, over so many seconds and at least 20 calls, after 5 that warm up."""
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 25 or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return 1000 * statistics.median(times[5:])


def multiply_accumulates(network: FERNetwork) -> int:
    """Multiplications with a weight that one face takes (MACs)."""
    face = torch.zeros(1, network.channels, network.image_size, network.image_size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        copy.deepcopy(network).cpu().eval()(face)
    return int(counter.get_total_flops()) // 2  # a multiplication and an addition count as two


def cost(name: str, network: FERNetwork) -> float:
    """The cost that `second_objective` names: `parameters` or `latency`."""
    return {"parameters": lambda: float(count_parameters(network)), "latency": lambda: latency(network)}[name]()
