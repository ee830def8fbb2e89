"""Builds a FERDataModule from conf/data and conf/protocol."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from fer_lightning.config import build, nearest, to_container
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.datamodule import FERDataModule
from fer_lightning.data.protocols.split import Split

log = logging.getLogger(__name__)


def prepare_data(config: DictConfig) -> FERDataModule:
    """Read and split the data set, and wrap it in a data module.

    Raises:
        DataError: The data set is invalid.
        ValueError: `eval.split` does not exist or is empty, or the protocol leaks and `paths.results_dir` is set.
    """
    faces: FaceArrays = build(to_container(config.data.source))
    for reason in faces.skipped[:5]:
        log.warning("skipped: %s", reason)
    if len(faces.skipped) > 5:
        log.warning("skipped: %d more images", len(faces.skipped) - 5)
    split: Split = build(to_container(config.protocol), faces)
    if split.faces is not None:
        faces = split.faces
    if config.eval.split not in split.indices:
        raise ValueError(
            f"eval.split={config.eval.split}: protocol {split.name} has no such part"
            f"{nearest(config.eval.split, split.indices)} It has {', '.join(split.indices)}"
        )
    if not len(split.indices[config.eval.split]):
        raise ValueError(f"eval.split={config.eval.split}: that part of {faces.name} under {split.name} is empty")
    train, measured = (set(faces.labels[split.indices[part]].tolist()) for part in ("train", config.eval.split))
    for code in sorted(measured - train):
        name, part = faces.classes[code], config.eval.split
        log.warning("class %s has images in %s but none in train: is its name spelled the same everywhere?", name, part)
    if split.is_leaky and config.paths.results_dir:
        raise ValueError(
            f"protocol {split.name} leaks, so its scores are not results and are not stored in "
            f"paths.results_dir={config.paths.results_dir}; `python -m fer_lightning leaks` collects them"
        )
    return FERDataModule(
        faces,
        split,
        batch_size=config.trainer.batch_size,
        augmentation=to_container(config.augmentation),
        sampler=config.data.sampler,
        targets=config.data.targets,
        resident=config.data.resident,
        workers=config.data.workers,
        seed=config.seed,
    )
