"""A trained net with the data of its own run, for every verb that takes a checkpoint."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from fer_lightning.cli.command_line import compose_config
from fer_lightning.config import CONF, check, plain, target_of
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.datamodule import FERDataModule
from fer_lightning.data.protocols.split import Split, is_leaky
from fer_lightning.data.provenance import Provenance, refusal
from fer_lightning.files import atomic_write, one_line, sha256
from fer_lightning.overrides import WITHOUT_EFFECT, drop_overrides, drop_replaced, is_under, key_of
from fer_lightning.reporting.records import read_record
from fer_lightning.run.data import prepare_data
from fer_lightning.run.preflight import try_all_views
from fer_lightning.run.resume import differences
from fer_lightning.run.trainer import build_trainer, choose_precision
from fer_lightning.run_folder import run_of
from fer_lightning.training.checkpoint_io import existing_checkpoint
from fer_lightning.training.evaluation import predict_part
from fer_lightning.training.metrics import Predictions
from fer_lightning.training.module import FERModule, load_module

TRAINED = {
    *("model", "loss", "optimizer", "scheduler", "augmentation", "callbacks", "finetune", "experiment", "objective"),
    *("trainer.max_epochs", "trainer.check_val_every_n_epoch", "trainer.gradient_clip_val", "trainer.on_nan"),
    *("trainer.gradient_clip_algorithm", "trainer.compile", "trainer.limit_train_batches", "data.sampler"),
}
"""Groups and keys that do nothing any more once a net is trained."""


def compose_for(module: FERModule, overrides: Sequence[str]) -> DictConfig:
    """The configuration that a checkpoint was trained with, composed anew with changes.

    Where files are written, runs are tracked and how much of a machine is used is not for the checkpoint to say: it
    may be somebody else's.

    Args:
        module: The trained module; its provenance holds what was typed when it was trained.
        overrides: What is typed now; it wins.

    Raises:
        ValueError: A key, group or option does not exist.
    """
    config = compose_config(CONF, overrides, kept_of(module, overrides))
    if any(word.startswith("eval=") for word in overrides):
        typed = {key_of(override) for override in overrides}
        for name in ("views", "validation"):
            if not OmegaConf.is_dict(views := config.eval.get(name)):
                continue
            taken = {"_target_", "_partial_", *inspect.signature(target_of(views)).parameters}
            # what these views do not take and nobody typed, the experiment of the run gives to its own
            foreign = [key for key in views if key not in taken and f"eval.{name}.{key}" not in typed]
            with open_dict(views):
                for key in foreign:
                    del views[key]
    return config


def kept_of(module: FERModule, overrides: Sequence[str]) -> list[str]:
    """The overrides typed when a net was trained that still hold beside what is typed now; see `compose_for`."""
    of_the_training = ("hydra", "trainer.devices", *(key for key in WITHOUT_EFFECT if key != "data.resident"))
    return drop_overrides(drop_replaced(module.hparams["provenance"]["overrides"], overrides), *of_the_training)


def check_protocol(checkpoint: Path, module: FERModule, config: DictConfig) -> None:
    """Refuses a protocol that is not the training's and that nobody typed.

    Raises:
        ValueError: They differ; the message says how to name the protocol.
    """
    then = module.hparams["provenance"].get("config")
    learnt, here = then.get("protocol") if isinstance(then, Mapping) else None, plain(config.protocol)
    if not isinstance(learnt, Mapping):
        return
    before, now = ({**p, "_target_": str(p.get("_target_")).rpartition(".")[-1]} for p in (learnt, here))
    if differ := differences(before, now):
        raise ValueError(
            f"{checkpoint} was trained with another conf/ (--config-name, --config-dir, conf/local, or changed since): "
            f"its overrides give another protocol here, {differ}; add protocol=NAME and its options"
        )


def settings_in_name(typed: Sequence[str]) -> list[str]:
    """The words that change how a net is measured, as parts of a file's name: `views.shift=0.1`."""
    named = [
        word for word in drop_overrides(typed, "eval.split", "eval.bootstrap") if key_of(word).startswith(MEASURING)
    ]
    return [re.sub(r"[^\w.=]+", "_", word.removeprefix("eval.")) for word in named]


MEASURING = ("eval.", "trainer.precision", "trainer.limit_test_batches")
"""Keys that change what is measured."""


@dataclass(frozen=True)
class Trained:
    """A net, and the data, protocol and views of its own run or as they were changed.

    Attributes:
        checkpoint: Where it comes from.
        module: The net.
        config: The run's configuration with the changes.
        datamodule: Its data.
        typed: The overrides, and of its training's those of `eval.KEY` that still hold.
    """

    checkpoint: Path
    module: FERModule
    config: DictConfig
    datamodule: FERDataModule
    typed: Sequence[str]

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = (), *, another_model: bool = False) -> Trained:
        """Loads a net and opens its data.

        Args:
            path: A checkpoint, or the folder of a run, whose best one is taken.
            overrides: Hydra overrides on top of those of the run.
            another_model: Whether they may describe a model; the net itself stays as it was trained.

        Raises:
            FileNotFoundError: There is no such checkpoint.
            ValueError: It is not one of this project, its provenance is unknown, or the data set has other classes.
        """
        checkpoint = existing_checkpoint(path)
        fixed = TRAINED - {"model"} if another_model else TRAINED
        if late := [override for override in overrides if is_under(key_of(override), *fixed)]:
            raise ValueError(f"{late[0]} is decided by the training: {checkpoint} cannot be changed in that any more")
        module = load_module(checkpoint)
        stored = module.hparams["provenance"] or {}
        if Provenance.read(stored) is None or "overrides" not in stored:
            raise ValueError(
                f"checkpoint={checkpoint} lacks data, data_fingerprint, protocol or overrides in its provenance: what "
                "it was trained on is unknown, and it is not measured; train it with train.py"
            )
        config = compose_for(module, overrides)
        if not any(is_under(key_of(override), "protocol") for override in overrides):
            check_protocol(checkpoint, module, config)
        for key, alone in (("devices", 1), ("num_nodes", 1), ("strategy", "auto")):  # even if it learnt under DDP
            if key in config.trainer and not (OmegaConf.is_list(config.trainer[key]) and len(config.trainer[key]) == 1):
                config.trainer[key] = alone
        if config.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            config.trainer.accelerator = "auto"  # even if it learnt on a GPU
        check(config)
        module.set_evaluation(plain(config.eval))
        try_all_views(config)
        pl.seed_everything(config.seed, workers=True, verbose=False)
        datamodule = prepare_data(config)
        faces = datamodule.faces
        if list(faces.classes) != module.classes:
            raise ValueError(
                f"{checkpoint} knows the classes {', '.join(module.classes)}; "
                f"{faces.name} has {', '.join(faces.classes)}"
            )
        kept = [word for word in kept_of(module, overrides) if word.startswith("eval.")]
        return cls(checkpoint, module, config, datamodule, [*kept, *overrides])

    @property
    def faces(self) -> FaceArrays:
        """The data set."""
        return self.datamodule.faces

    @property
    def split(self) -> Split:
        """Its parts."""
        return self.datamodule.split

    @property
    def run(self) -> Path:
        """The folder of the run that left the checkpoint."""
        return run_of(self.checkpoint)

    @property
    def evaluation(self) -> dict[str, Any]:
        """conf/eval: how pictures are looked at."""
        evaluation: dict[str, Any] = plain(self.config.eval)
        return evaluation

    @property
    def views_name(self) -> str:
        """The function that makes the views: `flip`."""
        name: str = self.evaluation["views"]["_target_"].rsplit(".", 1)[-1]
        return name

    @property
    def what_differs(self) -> list[str]:
        """How it is measured otherwise than on its own data and protocol by plain views, as parts of a file's name."""
        here, there = self.faces, self.provenance
        names = [f"{here.name}_{here.fingerprint[:8]}"] * (here.fingerprint != there["data_fingerprint"])
        names += [re.sub(r"\W+", "_", self.split.name).strip("_")] * (self.split.name != there["protocol"])
        return [*names, *settings_in_name(self.typed)]

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the net comes from: data set, fingerprint, protocol and so on, as at its training."""
        provenance: dict[str, Any] = self.module.hparams["provenance"]
        return provenance

    @property
    def record(self) -> dict[str, Any]:
        """The run's record (`record.json`); empty where it was not finished."""
        path = self.run / "record.json"
        return read_record(path) if path.is_file() else {}

    def refuse_seen_images(self, part: str) -> None:
        """Refuses to measure the network on a part of which it may have seen images in training or selection.

        Raises:
            ValueError: It has, or may have.
        """
        origin = Provenance.read(self.provenance)
        assert origin is not None  # `load` refuses an unknown one
        if reason := refusal(origin, self.faces, self.split, part):
            own = f"measure it on {origin.data} under {origin.protocol}"
            way_out = "train one under protocol=official" if is_leaky(origin.protocol) else own
            raise ValueError(f"checkpoint={self.checkpoint} {reason}; {way_out}")

    def predict(self, part: str) -> Predictions:
        """Predicts a part of the split, by the views of `eval`.

        Raises:
            ValueError: It may have seen some of these images in training or selection.
        """
        self.refuse_seen_images(part)
        return predict_part(self._trainer(), self.module, self.datamodule, self.evaluation, part)

    @property
    def device(self) -> torch.device:
        """Where the net is asked."""
        device: torch.device = self._trainer().strategy.root_device
        return device

    @property
    def precision(self) -> str:
        """In what precision: `bf16-mixed`."""
        trainer = self.config.trainer
        return choose_precision(trainer.precision, self.module.network, trainer.accelerator)

    def _trainer(self) -> pl.Trainer:
        return build_trainer(self.config, self.run, self.module.network, logger=False)

    def predictions(self, part: str) -> Predictions:
        """What `predict` gives, kept in the run's folder `predictions/`; only logits are kept, no labels.

        A file is found by all that its content follows from: the checkpoint's bytes, the views, the data, the
        positions of the part and the precision.

        Raises:
            ValueError: It may have seen some of these images in training or selection, or the part is limited.
        """
        limit = self.config.trainer.limit_test_batches
        if not (isinstance(limit, float) and limit == 1):
            key = "trainer.limit_test_batches"
            raise ValueError(f"{key} is {limit}, and this needs the whole of a part: add {key}=1.0")
        self.refuse_seen_images(part)
        path = self.run / "predictions" / f"{part}_{self._key(part)[:16]}.npz"
        if not path.exists():
            predictions = self.predict(part)
            with atomic_write(path) as aside, aside.open("wb") as file:
                np.savez(file, index=predictions.index.numpy(), logits=predictions.logits.numpy())
        try:
            with np.load(path) as kept:
                index, logits = torch.from_numpy(kept["index"]), torch.from_numpy(kept["logits"])
            return Predictions(index, logits, torch.from_numpy(self.faces.labels[index.numpy()]))
        except Exception as error:  # what is damaged makes NumPy raise anything
            raise ValueError(f"{path} is damaged ({one_line(error)}); delete it") from None

    def _key(self, part: str) -> str:
        views = self.evaluation
        follows_from = {
            "checkpoint": sha256(self.checkpoint),
            "views": views["views"],
            "average": views["average"],
            "data": self.faces.fingerprint,
            "positions": hashlib.sha256(self.split.indices[part].tobytes()).hexdigest(),
            "precision": self.precision,
            "batches": self.config.trainer.limit_test_batches,
        }
        return hashlib.sha256(json.dumps(follows_from, sort_keys=True).encode()).hexdigest()
