"""From conf/data and conf/protocol to a FERDataModule."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from fer_lightning.config import build, nearest, plain
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.datamodule import FERDataModule
from fer_lightning.data.protocols.split import Split

log = logging.getLogger(__name__)


def prepare_data(config: DictConfig) -> FERDataModule:
    """Reads the data set, splits it and wraps it.

    Raises:
        DataError: The data set is not what it should be.
        ValueError: It has no such part as is to be measured, or the protocol leaks and results are to be kept.
    """
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
    if not len(split.indices[config.eval.split]):
        raise ValueError(f"eval.split={config.eval.split}: that part of {faces.name} under {split.name} has no picture")
    train, measured = (set(faces.labels[split.indices[part]].tolist()) for part in ("train", config.eval.split))
    for code in sorted(measured - train):
        named, part = faces.classes[code], config.eval.split
        log.warning("%s has pictures in %s and none to train on: is it spelt alike everywhere?", named, part)
    if split.is_leaky and config.paths.results_dir:
        raise ValueError(
            f"protocol {split.name} leaks, so its numbers are no results and do not go to "
            f"paths.results_dir={config.paths.results_dir}; `python -m fer_lightning leaks` collects them"
        )
    return FERDataModule(
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
