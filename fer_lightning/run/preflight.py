"""Builds what a configuration names, small and before any data are read: mistakes show in a second."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fer_lightning.config import LESS_IS_BETTER, build, nearest, plain
from fer_lightning.files import one_line
from fer_lightning.models.emonext import SpatialTransformer
from fer_lightning.models.network import FERNetwork, build_body, check_image_size, check_weights_file
from fer_lightning.run.resume import StartPoint
from fer_lightning.run.trainer import uses_cuda
from fer_lightning.training.distillation import DistillationLoss
from fer_lightning.training.finetune import GradualUnfreezing
from fer_lightning.training.metrics import EPOCH_SCORES
from fer_lightning.training.optim import build_optimizer
from fer_lightning.training.resizing import ProgressiveResizing

log = logging.getLogger(__name__)

STAND_IN_CLASSES = 7


def dry_run(config: DictConfig, start: StartPoint) -> None:
    """Builds each part of a run on stand-ins and lets the network see one empty picture, without memory or weights.

    Args:
        config: The composed configuration.
        start: Where the run starts.

    Raises:
        ValueError: Something cannot be built, or the checkpoint to continue from is of another network or optimizer.
        FileNotFoundError: The file of `model.weights` is not there.
    """
    check_monitored(config)
    weights = config.model.get("weights")
    if weights and not start.path:
        check_weights_file(Path(weights))
    if config.finetune.callback and not (config.model.get("pretrained") or weights or config.resume):
        log.warning("finetune freezes random features: set model.pretrained=true or model.weights=file.safetensors")
    classes = len(start.hyperparameters.get("classes", ())) or STAND_IN_CLASSES
    check_image_size(config.model.image_size)
    body = body_without_memory(plain(config.model), classes)
    start.check_config(config, body)
    check_deterministic(config, body)
    looks = {key: config.model[key] for key in ("image_size", "channels")}
    FERNetwork(body, **looks, **{key: plain(config.model[key]) for key in ("mean", "std")})
    loss = build(plain(config.loss), class_counts=[1] * classes)
    if isinstance(loss, DistillationLoss) and "distiller" not in config.callbacks:
        raise ValueError("loss=distillation learns from a teacher: add callbacks=distillation and its teachers")
    try:
        optimizer = build_optimizer(plain(config.optimizer), body)
        build(plain(config.scheduler), optimizer=optimizer, epochs=config.trainer.max_epochs, steps_per_epoch=100)
    except (TypeError, RuntimeError, ValueError, ArithmeticError, LookupError) as error:
        raise ValueError(f"optimizer or scheduler: {error}") from None
    parts = {f"callbacks.{name}": part for name, part in config.callbacks.items()}
    parts |= {f"augmentation.{name}": part for name, part in config.augmentation.items()}
    for name, part in {**parts, "finetune.callback": config.finetune.callback}.items():
        if part and "_target_" not in part:
            raise ValueError(
                f"{name}.{next(iter(part))} is set, by an experiment or the command line, but the chosen option of "
                f"{name.partition('.')[0]} has no {name}: add {name}=null"
            )
        built = build(plain(part)) if part else None
        if isinstance(built, GradualUnfreezing):
            if not hasattr(body, "stages"):
                raise ValueError(f"finetune=gradual thaws stages(), and {config.model._target_} has none")
            built.check_stages(len(body.stages()))  # type: ignore[operator]
        if isinstance(built, ProgressiveResizing):
            check_sides(built.sides, body, plain(config.model))
    try_all_views(config)
    for key in ("train", "val", "test"):
        limit = config.trainer[f"limit_{key}_batches"]
        share = isinstance(limit, float)
        if not isinstance(limit, (int, float)) or isinstance(limit, bool) or not limit > 0 or (share and limit > 1):
            raise ValueError(
                f"trainer.limit_{key}_batches is {limit}; it must be above 0: a number of batches, or a share up to 1.0"
            )


def try_all_views(config: DictConfig) -> None:
    """Looks at an empty picture by the views of `eval`, and by those of validation where it has its own.

    Raises:
        ValueError: They cannot be, or give nothing to look at.
    """
    for key in ("views", "validation"):
        if (views := config.eval.get(key)) or key == "views":
            try_views(f"eval.{key}", plain(views), config.model.image_size)


def try_views(key: str, views: Mapping[str, Any], size: int) -> None:
    """Looks at an empty picture by views, which a run else does for the first time after its training.

    Args:
        key: The key that names them.
        views: conf/eval's `views` or `validation`.
        size: Side of the picture in pixels.

    Raises:
        ValueError: They cannot be, or give nothing to look at.
    """
    try:
        seen = build(views)(torch.zeros(1, 1, size, size))
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{key}: {one_line(error)}") from None
    sides = [side for view in seen for side in view.shape[-2:]]
    if not sides or min(sides) < 1 or max(sides) > size:
        options = ", ".join(f"{key}.{k}={v}" for k, v in views.items() if not k.startswith("_"))
        raise ValueError(f"{options}: a {size} px picture cannot be looked at like that")


def monitored_metrics(config: DictConfig) -> dict[str, str]:
    """The keys that name a metric of each epoch, with their values."""
    named = {"objective": str(config.objective)}
    settings = {**config.callbacks, "scheduler": config.scheduler}
    where = {name: name if name == "scheduler" else f"callbacks.{name}" for name in settings}
    return named | {
        f"{where[name]}.monitor": str(part.monitor) for name, part in settings.items() if part and "monitor" in part
    }


def check_monitored(config: DictConfig, classes: Sequence[str] | None = None) -> None:
    """Refuses metrics that no epoch will have, and the wrong direction.

    Args:
        config: The composed configuration.
        classes: Those of the data; before they are known any class's F1 passes.

    Raises:
        ValueError: One sentence that names the key.
    """
    per_class = ["f1_"] if classes is None else [f"f1_{name}" for name in classes]
    every = config.trainer.check_val_every_n_epoch
    for key, name in monitored_metrics(config).items():
        if key.startswith("callbacks.") and name.startswith("train/") and every != 1:
            raise ValueError(f"{key}={name} is looked at where val is: set trainer.check_val_every_n_epoch=1")
        check_logged(key, name, [*EPOCH_SCORES, *per_class])
        check_direction(key, name, config)


def check_logged(key: str, name: str, scores: Sequence[str]) -> None:
    """Refuses a metric that no epoch will have.

    Args:
        key: The key that names it.
        name: The metric, for example `val/accuracy`.
        scores: What is logged under `val/`; one that ends in `_` stands for all that begin so.

    Raises:
        ValueError: It is none of them; the message lists them.
    """
    logged = [f"val/{score}" for score in scores]
    if key != "objective":
        logged += ["train/loss", "train/accuracy"]
    if name not in logged and not name.startswith(tuple(known for known in logged if known.endswith("_"))):
        shown = ", ".join(f"{known}CLASS" if known.endswith("_") else known for known in logged)
        raise ValueError(f"{key} is {name!r}{nearest(name, logged)} It must be one of {shown}")


def check_direction(key: str, name: str, config: DictConfig) -> None:
    """Refuses to take the worst epoch for the best.

    Args:
        key: The key that names a metric.
        name: The metric.
        config: The composed configuration.

    Raises:
        ValueError: The mode beside the key is not the metric's.
    """
    mode_key = "objective_mode" if key == "objective" else key.removesuffix("monitor") + "mode"
    wanted, better = ("min", "smaller") if name in LESS_IS_BETTER else ("max", "larger")
    if OmegaConf.select(config, mode_key) not in (wanted, None):
        raise ValueError(f"{key}={name} is better when it is {better}: add {mode_key}={wanted}")


def body_without_memory(model: Mapping[str, Any], classes: int) -> nn.Module:
    """The network's body on torch's meta device, after it has seen one picture of `model.image_size`.

    Raises:
        ValueError: Its options do not fit, or the picture is too small for it.
    """
    size, target = model["image_size"], model["_target_"]
    with suiting(f"model.image_size={size} or another option does not suit {target}"), torch.device("meta"):
        body = build_body(model, classes, fetch_pretrained=False)
        try:
            said = body.eval()(torch.zeros(1, model["channels"], size, size))
        except NotImplementedError:  # an operator that torch cannot do without memory
            return body
    if tuple(said.shape) != (1, classes):
        shape = " x ".join(map(str, said.shape))
        raise ValueError(f"{target} answers a picture with {shape} values, not 1 x {classes} logits")
    return body


def check_deterministic(config: DictConfig, body: nn.Module) -> None:
    """Refuses a network that `trainer.deterministic=true` would stop at its first backward pass.

    Raises:
        ValueError: It resamples its images by what it learns, whose gradient adds in varying order on a GPU.
    """
    resamples = any(isinstance(module, SpatialTransformer) for module in body.modules())
    if resamples and config.trainer.deterministic is True and uses_cuda(config.trainer.accelerator):
        raise ValueError(
            "trainer.deterministic=true: PyTorch has no such gradient of grid_sample on a GPU, which "
            f"{config.model._target_} needs: leave it out, or train with trainer.accelerator=cpu"
        )


@contextmanager
def suiting(otherwise: str) -> Iterator[None]:
    """Says in a sentence that a network cannot look at what it is shown.

    Args:
        otherwise: The beginning of the sentence.

    Raises:
        ValueError: It cannot.
    """
    try:
        with torch.no_grad():
            yield
    except (RuntimeError, AssertionError, IndexError, TypeError, ZeroDivisionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{otherwise}: {reason}") from None


def check_sides(sides: Sequence[int], body: nn.Module, model: Mapping[str, Any]) -> None:
    """Refuses sizes that a network is not made for, which a training would meet at its first step or in its midst.

    Args:
        sides: `sides` of `ProgressiveResizing`.
        body: The network's, from `body_without_memory`.
        model: conf/model.

    Raises:
        ValueError: The first of them that cannot be.
    """
    whole = model["image_size"]
    for side in sides:
        key = f"callbacks.progressive_resizing.sides has {side}"
        if side >= whole:
            raise ValueError(f"{key}; it must be smaller than model.image_size={whole}")
        other_size = f"{key}, which {model['_target_']} with model.image_size={whole} cannot look at"
        with suiting(other_size), suppress(NotImplementedError), torch.device("meta"):
            body(torch.zeros(1, model["channels"], side, side))
