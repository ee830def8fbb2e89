"""What happens between yaml and objects: resolvers, building, checks."""

from __future__ import annotations

import inspect
import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

TARGET_PREFIXES = ("fer_lightning.", "torch.optim.", "pytorch_lightning.")
"""A `_target_` is only honoured under these, since a config may come from a checkpoint that somebody sent."""


def register_resolvers() -> None:
    """Registers the interpolations that `conf/` uses; safe to call twice."""
    OmegaConf.register_new_resolver("default_data", _default_data, replace=True)
    OmegaConf.register_new_resolver("chosen", lambda *names: next(n for n in names if n), replace=True)


def _default_data() -> str:
    """The `data` option that `data=auto` stands for: `fer2013` if it lies in the data folder, else `synthetic`."""
    from fer_lightning.data.locate import find_fer2013

    return "fer2013" if find_fer2013(os.environ.get("FER_DATA_DIR", "data")) else "synthetic"


def overrides_last(words: Sequence[str]) -> list[str]:
    """A command line in the order that Hydra's parser takes: flags may stand anywhere between `key=value` words.

    `model=vgg -m optimizer.lr=1e-4,3e-4` becomes `-m model=vgg optimizer.lr=1e-4,3e-4`.
    """
    overrides = [word for word in words if ("=" in word and not word.startswith("-")) or word.startswith("~")]
    return [word for word in words if word not in overrides] + overrides


def plain(config: Any) -> Any:
    """A resolved copy in plain containers; only those load again under `torch.load(weights_only=True)`."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def build(config: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Calls the `_target_` of a config with its other keys, `args` and `kwargs`; `_partial_` only prepares the call.

    Raises:
        ValueError: The `_target_` is missing, is not defined under `TARGET_PREFIXES`, or does not take these keys.
    """
    options = {key: value for key, value in config.items() if key not in ("_target_", "_partial_")} | kwargs
    target = str(config.get("_target_"))
    call = _allowed(target)
    if config.get("_partial_"):
        return partial(call, *args, **options)
    try:
        inspect.signature(call).bind(*args, **options)
    except TypeError as error:
        raise ValueError(f"{target}: {error}") from None
    return call(*args, **options)


def _allowed(target: str) -> Callable[..., Any]:
    """What a `_target_` names, if it is defined where it says; `fer_lightning.config.os` is not of this project."""
    found: Any = None
    if target.startswith(TARGET_PREFIXES):
        with suppress(ImportError, AttributeError, ValueError):
            found = pkgutil.resolve_name(target)
    if not callable(found) or not f"{getattr(found, '__module__', '')}.".startswith(TARGET_PREFIXES):
        raise ValueError(f"_target_ {target!r} is not allowed: it must lie under one of {', '.join(TARGET_PREFIXES)}")
    allowed: Callable[..., Any] = found
    return allowed


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"optimizer": {"lr": 1}}` as `{"optimizer.lr": 1}`; lists stay whole, `_target_` is left out."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif key != "_target_":
            flat[f"{prefix}{key}"] = value
    return flat


def check(config: DictConfig) -> None:
    """Finds settings that cannot work before any data is read.

    Raises:
        ValueError: One sentence that names the key, its value and what it must be.
    """
    positive = ("optimizer.lr", "trainer.max_epochs", "trainer.batch_size", "model.image_size")
    for key in positive:
        value = OmegaConf.select(config, key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"{key} is {value!r}; it must be a number above 0")
    if config.data.sampler not in ("shuffled", "balanced"):
        raise ValueError(f"data.sampler is {config.data.sampler!r}; it must be 'shuffled' or 'balanced'")
    if config.data.targets not in ("labels", "votes"):
        raise ValueError(f"data.targets is {config.data.targets!r}; it must be 'labels' or 'votes'")
    if config.second_objective not in (None, "parameters", "latency"):
        raise ValueError(f"second_objective is {config.second_objective!r}; it must be null, 'parameters' or 'latency'")
    if not isinstance(config.data.workers, int) or config.data.workers < 0:
        raise ValueError(f"data.workers is {config.data.workers!r}; it must be 0 or more")
    if config.resume and not Path(config.resume).is_file():
        raise FileNotFoundError(f"resume={config.resume}: there is no such checkpoint; give a run's last.ckpt")
