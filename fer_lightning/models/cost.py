"""Inference cost of a network: latency, multiply-accumulates, parameters."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from fer_lightning.models.network import FERNetwork, count_parameters


def latency(network: FERNetwork, seconds: float = 0.5) -> float:
    """Measure the median time for one image on one CPU thread, in milliseconds, in float32 without compilation.

    Args:
        network: Not changed; a copy is measured.
        seconds: Duration of the measurement; at least 20 images are measured.
    """
    model = copy.deepcopy(network).cpu().float().eval()
    image = torch.zeros(1, network.channels, network.image_size, network.image_size)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return median_milliseconds(lambda: model(image), seconds)
    finally:
        torch.set_num_threads(threads)


def median_milliseconds(run: Callable[[], object], seconds: float = 0.5) -> float:
    """Measure the median time of a call in milliseconds.

    Args:
        run: The function to call.
        seconds: Duration of the measurement; at least 20 calls are measured, after 5 for warm-up.
    """
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 25 or time.perf_counter() - started < seconds:
        call_started = time.perf_counter()
        run()
        times.append(time.perf_counter() - call_started)
    return 1000 * statistics.median(times[5:])


def multiply_accumulates(network: FERNetwork) -> int:
    """Count the multiply-accumulates (MACs) of convolutions and matrix products for one image."""
    image = torch.zeros(1, network.channels, network.image_size, network.image_size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        copy.deepcopy(network).cpu().eval()(image)
    return int(counter.get_total_flops()) // 2  # one multiply-accumulate counts as two operations


def cost(name: str, network: FERNetwork) -> float:
    """Return the cost for a value of `second_objective`: `parameters`, or `latency` in milliseconds."""
    return {"parameters": lambda: float(count_parameters(network)), "latency": lambda: latency(network)}[name]()
