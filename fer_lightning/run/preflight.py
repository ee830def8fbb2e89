"""Builds the parts of a configuration without data or memory, so that mistakes show within a second."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fer_lightning.config import LESS_IS_BETTER, build, nearest, to_container
from fer_lightning.files import one_line
from fer_lightning.models.emonext import SpatialTransformer
from fer_lightning.models.network import FERNetwork, build_body, check_image_size
from fer_lightning.models.weights import check_weights_file
from fer_lightning.reporting.mlflow_store import check_scheme
from fer_lightning.run.resume import StartPoint
from fer_lightning.run.trainer import uses_cuda
from fer_lightning.training.distillation import DistillationLoss
from fer_lightning.training.finetune import GradualUnfreezing
from fer_lightning.training.metrics import EPOCH_SCORES
from fer_lightning.training.optim import build_optimizer
from fer_lightning.training.resizing import ProgressiveResizing

log = logging.getLogger(__name__)

PLACEHOLDER_CLASSES = 7


def dry_run(config: DictConfig, start: StartPoint) -> None:
    """Build each part of a run with placeholders and run the network, without its weights, on the meta device.

    Args:
        config: The composed configuration.
        start: Where the run starts.

    Raises:
        ValueError: A part cannot be built, or the checkpoint to continue from has another network or optimizer.
        FileNotFoundError: The file of `model.weights` does not exist.
    """
    check_monitored(config)
    check_scheme(config.tracking.get("uri"))
    weights = config.model.get("weights")
    if weights and not start.path:
        check_weights_file(Path(weights))
    if config.finetune.callback and not (config.model.get("pretrained") or weights or config.resume):
        log.warning("finetune freezes random features: set model.pretrained=true or model.weights=file.safetensors")
    classes = len(start.hyperparameters.get("classes", ())) or PLACEHOLDER_CLASSES
    check_image_size(config.model.image_size)
    body = build_meta_body(to_container(config.model), classes)
    start.check_config(config, body)
    check_deterministic(config, body)
    shape = {key: config.model[key] for key in ("image_size", "channels")}
    FERNetwork(body, **shape, **{key: to_container(config.model[key]) for key in ("mean", "std")})
    loss = build(to_container(config.loss), class_counts=[1] * classes)
    if isinstance(loss, DistillationLoss) and "distiller" not in config.callbacks:
        raise ValueError("loss=distillation needs a teacher: add callbacks=distillation and its teachers")
    try:
        optimizer = build_optimizer(to_container(config.optimizer), body)
        build(
            to_container(config.scheduler), optimizer=optimizer, epochs=config.trainer.max_epochs, steps_per_epoch=100
        )
    except (TypeError, RuntimeError, ValueError, ArithmeticError, LookupError) as error:
        raise ValueError(f"optimizer or scheduler: {error}") from None
    check_parts(config, body)
    check_all_views(config)
    check_limits(config)


def check_parts(config: DictConfig, body: nn.Module) -> None:
    """Build the callbacks and the augmentation, and check those that depend on the network.

    Raises:
        ValueError: A part cannot be built or does not fit the network.
    """
    parts = {f"callbacks.{name}": part for name, part in config.callbacks.items()}
    parts |= {f"augmentation.{name}": part for name, part in config.augmentation.items()}
    for name, part in {**parts, "finetune.callback": config.finetune.callback}.items():
        if part and "_target_" not in part:
            raise ValueError(
                f"{name}.{next(iter(part))} is set by an experiment or the command line, but the chosen option of "
                f"{name.partition('.')[0]} has no {name}: add {name}=null"
            )
        built = build(to_container(part)) if part else None
        if isinstance(built, GradualUnfreezing):
            if not hasattr(body, "stages"):
                raise ValueError(f"finetune=gradual unfreezes stages(), and {config.model._target_} has none")
            built.check_stages(len(body.stages()))  # type: ignore[operator]
        if isinstance(built, ProgressiveResizing):
            check_sides(built.sides, body, to_container(config.model))


def check_limits(config: DictConfig) -> None:
    """Check the numbers of batches in `trainer.limit_..._batches`.

    Raises:
        ValueError: A number is not above 0, or a fraction is above 1.
    """
    for key in ("train", "val", "test"):
        limit = config.trainer[f"limit_{key}_batches"]
        fraction = isinstance(limit, float)
        if not isinstance(limit, (int, float)) or isinstance(limit, bool) or not limit > 0 or (fraction and limit > 1):
            raise ValueError(
                f"trainer.limit_{key}_batches is {limit}; it must be above 0: a number of batches, or a "
                "fraction up to 1.0"
            )


def check_all_views(config: DictConfig) -> None:
    """Apply `eval.views`, and `eval.validation` if set, to an empty image.

    Raises:
        ValueError: The views cannot be built or applied, or give no image, an empty one or a larger one.
    """
    for key in ("views", "validation"):
        if (views := config.eval.get(key)) or key == "views":
            check_views(f"eval.{key}", to_container(views), config.model.image_size)


def check_views(key: str, views: Mapping[str, Any], size: int) -> None:
    """Apply views to an empty image; a run would otherwise first do so after its training.

    Args:
        key: The configuration key of the views, for the message.
        views: conf/eval's `views` or `validation`.
        size: Side of the image in pixels.

    Raises:
        ValueError: The views cannot be built or applied, or give no image, an empty one or a larger one.
    """
    try:
        applied = build(views)(torch.zeros(1, 1, size, size))
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{key}: {one_line(error)}") from None
    sides = [side for view in applied for side in view.shape[-2:]]
    if not sides or min(sides) < 1 or max(sides) > size:
        options = ", ".join(f"{key}.{k}={v}" for k, v in views.items() if not k.startswith("_"))
        raise ValueError(f"{options}: these views do not work on an image of {size} px")


def monitored_metrics(config: DictConfig) -> dict[str, str]:
    """Return the configuration keys that name a metric of each epoch, with their values."""
    metrics = {"objective": str(config.objective)}
    settings = {**config.callbacks, "scheduler": config.scheduler}
    keys = {name: name if name == "scheduler" else f"callbacks.{name}" for name in settings}
    return metrics | {
        f"{keys[name]}.monitor": str(part.monitor) for name, part in settings.items() if part and "monitor" in part
    }


def check_monitored(config: DictConfig, classes: Sequence[str] | None = None) -> None:
    """Refuse monitored metrics that no epoch logs, and modes that select the worst epoch.

    Args:
        config: The composed configuration.
        classes: Class names of the data; if None, the F1 of any class is accepted.

    Raises:
        ValueError: The message names the key.
    """
    per_class = ["f1_"] if classes is None else [f"f1_{name}" for name in classes]
    every = config.trainer.check_val_every_n_epoch
    for key, name in monitored_metrics(config).items():
        if key.startswith("callbacks.") and name.startswith("train/") and every != 1:
            raise ValueError(
                f"{key}={name} is only checked in epochs with validation: set trainer.check_val_every_n_epoch=1"
            )
        check_logged(key, name, [*EPOCH_SCORES, *per_class])
        check_direction(key, name, config)


def check_logged(key: str, name: str, scores: Sequence[str]) -> None:
    """Refuse a metric that no epoch logs.

    Args:
        key: The configuration key that names the metric.
        name: The metric, for example `val/accuracy`.
        scores: Names logged under `val/`; a name that ends in `_` is a prefix.

    Raises:
        ValueError: The metric is not logged; the message lists those that are.
    """
    logged = [f"val/{score}" for score in scores]
    if key != "objective":
        logged += ["train/loss", "train/accuracy"]
    if name not in logged and not name.startswith(tuple(known for known in logged if known.endswith("_"))):
        shown = ", ".join(f"{known}CLASS" if known.endswith("_") else known for known in logged)
        raise ValueError(f"{key} is {name!r}{nearest(name, logged)} It must be one of {shown}")


def check_direction(key: str, name: str, config: DictConfig) -> None:
    """Refuse a mode that would select the worst epoch.

    Args:
        key: The configuration key that names the metric.
        name: The metric, for example `val/accuracy`.
        config: The composed configuration.

    Raises:
        ValueError: The mode that belongs to the key is wrong for the metric.
    """
    mode_key = "objective_mode" if key == "objective" else key.removesuffix("monitor") + "mode"
    wanted, better = ("min", "smaller") if name in LESS_IS_BETTER else ("max", "larger")
    if OmegaConf.select(config, mode_key) not in (wanted, None):
        raise ValueError(f"{key}={name} is better when {better}: add {mode_key}={wanted}")


def build_meta_body(model: Mapping[str, Any], classes: int) -> nn.Module:
    """Build the body of the network on the meta device and run it on one image of `model.image_size`.

    Raises:
        ValueError: Its options are invalid, the image is too small for it, or its output has the wrong shape.
    """
    size, target = model["image_size"], model["_target_"]
    with (
        explain_network_errors(f"model.image_size={size} or another option does not suit {target}"),
        torch.device("meta"),
    ):
        body = build_body(model, classes, fetch_pretrained=False)
        try:
            logits = body.eval()(torch.zeros(1, model["channels"], size, size))
        except NotImplementedError:  # an operator without a meta implementation
            return body
    if tuple(logits.shape) != (1, classes):
        shape = " x ".join(map(str, logits.shape))
        raise ValueError(f"{target} returns {shape} values for one image, not 1 x {classes} logits")
    return body


def check_deterministic(config: DictConfig, body: nn.Module) -> None:
    """Refuse a network that `trainer.deterministic=true` would stop at its first backward pass.

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
def explain_network_errors(problem: str) -> Iterator[None]:
    """Turn the errors of building or running a network into one sentence, without gradients.

    Args:
        problem: The beginning of the sentence.

    Raises:
        ValueError: The network failed.
    """
    try:
        with torch.no_grad():
            yield
    except (RuntimeError, AssertionError, IndexError, TypeError, ZeroDivisionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{problem}: {reason}") from None


def check_sides(sides: Sequence[int], body: nn.Module, model: Mapping[str, Any]) -> None:
    """Refuse image sizes that the network cannot process; a training would fail later, when it reaches them.

    Args:
        sides: `sides` of `ProgressiveResizing`.
        body: The body of the network, from `build_meta_body`.
        model: conf/model.

    Raises:
        ValueError: The message names the first invalid size.
    """
    full_size = model["image_size"]
    for side in sides:
        key = f"callbacks.progressive_resizing.sides has {side}"
        if side >= full_size:
            raise ValueError(f"{key}; it must be smaller than model.image_size={full_size}")
        problem = f"{key}, which {model['_target_']} with model.image_size={full_size} cannot process"
        with explain_network_errors(problem), suppress(NotImplementedError), torch.device("meta"):
            body(torch.zeros(1, model["channels"], side, side))
