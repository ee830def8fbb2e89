"""A trained network with the data of its run, for every subcommand that takes a checkpoint."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from fer_lightning.cli.command_line import compose_config
from fer_lightning.config import CONF, check, target_of, to_container
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.datamodule import FERDataModule
from fer_lightning.data.protocols.split import Split, is_leaky
from fer_lightning.data.provenance import Provenance, refusal
from fer_lightning.files import atomic_write, one_line, sha256
from fer_lightning.overrides import WITHOUT_EFFECT, drop_overrides, drop_replaced, is_under, key_of
from fer_lightning.reporting.records import read_record
from fer_lightning.run.data import prepare_data
from fer_lightning.run.preflight import check_all_views
from fer_lightning.run.resume import changed_settings
from fer_lightning.run.trainer import build_trainer, choose_precision
from fer_lightning.run_folder import RECORD, run_of
from fer_lightning.training.checkpoint_io import existing_checkpoint
from fer_lightning.training.evaluation import predict_part
from fer_lightning.training.metrics import Predictions
from fer_lightning.training.module import FERModule, load_module

FIXED_BY_TRAINING = {
    *("model", "loss", "optimizer", "scheduler", "augmentation", "callbacks", "finetune", "experiment", "objective"),
    *("trainer.max_epochs", "trainer.check_val_every_n_epoch", "trainer.gradient_clip_val", "trainer.on_nan"),
    *("trainer.gradient_clip_algorithm", "trainer.compile", "trainer.limit_train_batches", "data.sampler"),
}
"""Groups and keys that have no effect once a network is trained."""


def compose_for(module: FERModule, overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration that a checkpoint was trained with, with changes.

    Output paths, tracking and hardware settings are not taken from the checkpoint, which may come from another user.

    Args:
        module: The trained module; its provenance holds the overrides of its training.
        overrides: Overrides that take precedence over those of the training.

    Raises:
        ValueError: A key, group or option does not exist.
    """
    config = compose_config(CONF, overrides, training_overrides(module, overrides))
    if any(override.startswith("eval=") for override in overrides):
        given = {key_of(override) for override in overrides}
        for name in ("views", "validation"):
            if not OmegaConf.is_dict(views := config.eval.get(name)):
                continue
            accepted = {"_target_", "_partial_", *inspect.signature(target_of(views)).parameters}
            # other keys that were not given as overrides belong to the views of the run's experiment
            foreign = [key for key in views if key not in accepted and f"eval.{name}.{key}" not in given]
            with open_dict(views):
                for key in foreign:
                    del views[key]
    return config


def training_overrides(module: FERModule, overrides: Sequence[str]) -> list[str]:
    """Return the overrides of the training that stay valid together with the new ones; see `compose_for`."""
    omitted = ("hydra", "trainer.devices", *(key for key in WITHOUT_EFFECT if key != "data.resident"))
    return drop_overrides(drop_replaced(module.hparams["provenance"]["overrides"], overrides), *omitted)


def check_recomposed(checkpoint: Path, module: FERModule, config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse a protocol or test-time views that differ from the training's although no override sets them.

    Raises:
        ValueError: They differ; the message says how to set them.
    """
    stored = module.hparams["provenance"].get("config")
    for group, keys in (("protocol", None), ("eval", ("views", "validation", "average"))):
        trained = stored.get(group) if isinstance(stored, Mapping) else None
        if not isinstance(trained, Mapping) or any(is_under(key_of(override), group) for override in overrides):
            continue
        before, now = (
            {key: value for key, value in options.items() if keys is None or key in keys}
            for options in (_without_modules(trained), _without_modules(to_container(config[group])))
        )
        if differ := changed_settings(before, now):
            raise ValueError(
                f"{checkpoint} was trained with another conf/ (--config-name, --config-dir, conf/local, or changed "
                f"since): its overrides give another {group} here, {differ}; add {group}=NAME and its options"
            )


def _without_modules(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested options with the functions of `_target_` without their modules, which may have been moved."""

    def shown(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return _without_modules(value)
        return str(value).rpartition(".")[-1] if key == "_target_" else value

    return {key: shown(key, value) for key, value in options.items()}


def settings_in_name(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that change a measurement as parts of a file name: `views.shift=0.1`."""
    named = [
        o for o in drop_overrides(overrides, "eval.split", "eval.bootstrap") if key_of(o).startswith(MEASUREMENT_KEYS)
    ]
    return [re.sub(r"[^\w.=]+", "_", override.removeprefix("eval.")) for override in named]


MEASUREMENT_KEYS = ("eval.", "trainer.precision", "trainer.limit_test_batches")
"""Keys that change a measurement."""


@dataclass(frozen=True)
class TrainedRun:
    """A trained network with the data, protocol and views of its run or of the overrides.

    Attributes:
        checkpoint: Its file.
        module: The module with its network.
        config: The configuration of the run with the overrides.
        datamodule: The data of that configuration.
        overrides: The overrides of `eval.KEY` from the training that stay valid, then the new overrides.
    """

    checkpoint: Path
    module: FERModule
    config: DictConfig
    datamodule: FERDataModule
    overrides: Sequence[str]

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = (), *, another_model: bool = False) -> TrainedRun:
        """Load a network and its data.

        Args:
            path: A checkpoint, or the folder of a run, which stands for its best checkpoint.
            overrides: Hydra overrides in addition to those of the run.
            another_model: Whether the overrides may describe a model; the loaded network does not change.

        Raises:
            FileNotFoundError: The checkpoint does not exist.
            ValueError: It is not a checkpoint of this project, its provenance is unknown, an override is fixed by the
                training, or the data set has other classes.
        """
        checkpoint = existing_checkpoint(path)
        fixed = FIXED_BY_TRAINING - {"model"} if another_model else FIXED_BY_TRAINING
        if invalid := [override for override in overrides if is_under(key_of(override), *fixed)]:
            raise ValueError(f"{invalid[0]} is fixed by the training of {checkpoint}: remove it")
        module = load_module(checkpoint)
        stored = module.hparams["provenance"] or {}
        if Provenance.read(stored) is None or "overrides" not in stored:
            raise ValueError(
                f"checkpoint={checkpoint} lacks data, data_fingerprint, protocol or overrides in its provenance, so "
                "the data of its training are unknown and it cannot be measured; train it with train.py"
            )
        try:
            config = compose_for(module, overrides)
        except ValueError as error:
            if not (sources := stored.get("config_sources")):
                raise
            remedy = f"{checkpoint} was trained with {shlex.join(sources)}: copy its options into conf/"
            raise ValueError(f"{error} ({remedy})") from None
        check_recomposed(checkpoint, module, config, overrides)
        for key, single in (("devices", 1), ("num_nodes", 1), ("strategy", "auto")):  # even if trained under DDP
            if key in config.trainer and not (OmegaConf.is_list(config.trainer[key]) and len(config.trainer[key]) == 1):
                config.trainer[key] = single
        if config.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            config.trainer.accelerator = "auto"  # even if trained on a GPU
        check(config)
        module.set_evaluation(to_container(config.eval))
        check_all_views(config)
        pl.seed_everything(config.seed, workers=True, verbose=False)
        datamodule = prepare_data(config)
        faces = datamodule.faces
        if list(faces.classes) != module.classes:
            raise ValueError(
                f"{checkpoint} has the classes {', '.join(module.classes)}; {faces.name} has {', '.join(faces.classes)}"
            )
        earlier = [override for override in training_overrides(module, overrides) if override.startswith("eval.")]
        return cls(checkpoint, module, config, datamodule, [*earlier, *overrides])

    @property
    def faces(self) -> FaceArrays:
        """The data set."""
        return self.datamodule.faces

    @property
    def split(self) -> Split:
        """The parts of the data set."""
        return self.datamodule.split

    @property
    def run(self) -> Path:
        """The folder of the run that wrote the checkpoint."""
        return run_of(self.checkpoint)

    @property
    def evaluation(self) -> dict[str, Any]:
        """conf/eval: views, their average, and the part to measure."""
        evaluation: dict[str, Any] = to_container(self.config.eval)
        return evaluation

    @property
    def views_name(self) -> str:
        """The name of the function that makes the views: `flip`."""
        name: str = self.evaluation["views"]["_target_"].rsplit(".", 1)[-1]
        return name

    @property
    def changes(self) -> list[str]:
        """Changes of data, protocol and evaluation settings relative to the run, as parts of a file name."""
        faces, trained_on = self.faces, self.provenance
        names = [f"{faces.name}_{faces.fingerprint[:8]}"] * (faces.fingerprint != trained_on["data_fingerprint"])
        names += [re.sub(r"\W+", "_", self.split.name).strip("_")] * (self.split.name != trained_on["protocol"])
        return [*names, *settings_in_name(self.overrides)]

    @property
    def provenance(self) -> dict[str, Any]:
        """The provenance of the network: data set, fingerprint, protocol and settings of its training."""
        provenance: dict[str, Any] = self.module.hparams["provenance"]
        return provenance

    @property
    def config_sources(self) -> list[str]:
        """The arguments of its training that chose other configuration files: `--config-dir=DIR`."""
        sources: list[str] = self.provenance.get("config_sources", [])
        return sources

    @property
    def record(self) -> dict[str, Any]:
        """The record of the run (`record.json`); empty if the run has not finished."""
        path = self.run / RECORD
        return read_record(path) if path.is_file() else {}

    def check_not_trained_on(self, part: str) -> None:
        """Refuse a part with images that the network was trained or selected on.

        Raises:
            ValueError: It was, or may have been.
        """
        origin = Provenance.read(self.provenance)
        assert origin is not None  # `load` refuses an unknown one
        if reason := refusal(origin, self.faces, self.split, part):
            same_data = f"measure it on {origin.data} under {origin.protocol}"
            remedy = "train a network under protocol=official" if is_leaky(origin.protocol) else same_data
            raise ValueError(f"checkpoint={self.checkpoint} {reason}; {remedy}")

    def predict(self, part: str) -> Predictions:
        """Predict a part of the split with the views of `eval`.

        Raises:
            ValueError: The network may have been trained or selected on some of these images.
        """
        self.check_not_trained_on(part)
        return predict_part(self._trainer(), self.module, self.datamodule, self.evaluation, part)

    @property
    def device(self) -> torch.device:
        """The device that predicts."""
        device: torch.device = self._trainer().strategy.root_device
        return device

    @property
    def precision(self) -> str:
        """The precision of the predictions: `bf16-mixed`."""
        trainer = self.config.trainer
        return choose_precision(trainer.precision, self.module.network, trainer.accelerator)

    def _trainer(self) -> pl.Trainer:
        return build_trainer(self.config, self.run, self.module.network, logger=False)

    def predictions(self, part: str) -> Predictions:
        """Return the result of `predict`, cached as logits without labels in the run's folder `predictions/`.

        The name of a file is a hash of all that determines its content: the checkpoint's bytes, the views, the data,
        the positions of the part and the precision.

        Raises:
            ValueError: The network may have been trained or selected on some of these images, or the part is limited.
        """
        limit = self.config.trainer.limit_test_batches
        if not (isinstance(limit, float) and limit == 1):
            key = "trainer.limit_test_batches"
            raise ValueError(f"{key} is {limit}, but the whole part is needed: add {key}=1.0")
        self.check_not_trained_on(part)
        path = self.run / "predictions" / f"{part}_{self._cache_key(part)[:16]}.npz"
        if not path.exists():
            predictions = self.predict(part)
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.savez(file, index=predictions.index.numpy(), logits=predictions.logits.numpy())
        try:
            with np.load(path) as cached:
                index, logits = torch.from_numpy(cached["index"]), torch.from_numpy(cached["logits"])
            return Predictions(index, logits, torch.from_numpy(self.faces.labels[index.numpy()]))
        except Exception as error:  # NumPy raises many types for a damaged file
            raise ValueError(f"{path} is damaged ({one_line(error)}); delete it") from None

    def _cache_key(self, part: str) -> str:
        views = self.evaluation
        content = {
            "checkpoint": sha256(self.checkpoint),
            "views": views["views"],
            "average": views["average"],
            "data": self.faces.fingerprint,
            "positions": hashlib.sha256(self.split.indices[part].tobytes()).hexdigest(),
            "precision": self.precision,
            "batches": self.config.trainer.limit_test_batches,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
