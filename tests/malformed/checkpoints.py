"""Malformed checkpoints and weights."""

from __future__ import annotations

import contextlib
from pathlib import Path

import safetensors.torch
from helpers.valid_files import HYPERPARAMETERS, good_checkpoint, network, saved
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fer_lightning.models.weights import load_weights
from fer_lightning.run.resume import StartPoint
from fer_lightning.training.module import load_module
from malformed.target import Target
from malformed.values import corrupted, damaged


@st.composite
def checkpoints(draw: st.DrawFn) -> bytes:
    whole = good_checkpoint()
    if draw(st.integers(0, 2)) == 0:
        return draw(damaged(saved(whole)) | st.binary(max_size=50))
    part = draw(st.sampled_from(["hyper_parameters", "hyper_parameters", "state_dict", "history", None]))
    content = draw(corrupted(whole)) if part is None else {**whole, part: draw(corrupted(whole[part]))}
    try:
        return saved(content)
    except (RecursionError, OverflowError, UnicodeEncodeError, TypeError, ValueError):
        return b""


def feed_checkpoint(content: bytes, folder: Path) -> None:
    path = folder / "last.ckpt"
    path.write_bytes(content)
    refused = None
    try:
        config = OmegaConf.create({**HYPERPARAMETERS, "trainer": {"max_epochs": 1}})
        StartPoint.read(path).check_config(config, network().body)
    except ValueError as error:
        refused = error
    assert load_module(path).classes
    if refused:
        raise refused


@st.composite
def weights(draw: st.DrawFn) -> tuple[str, bytes]:
    tensors = network().state_dict()
    good = {".safetensors": safetensors.torch.save(tensors), ".pt": saved(tensors), ".ckpt": saved(good_checkpoint())}
    ending = draw(st.sampled_from(sorted(good)))
    if ending != ".safetensors" and draw(st.booleans()):
        with contextlib.suppress(Exception):
            return ending, saved(draw(corrupted(dict(tensors))))
    return ending, draw(damaged(good[ending]))


def feed_weights(given: tuple[str, bytes], folder: Path) -> None:
    path = folder / f"weights{given[0]}"
    path.write_bytes(given[1])
    load_weights(network(), path)


TARGETS = [
    Target("checkpoints", checkpoints(), feed_checkpoint, (ValueError,)),
    Target("weights", weights(), feed_weights, (ValueError,)),
]
