"""Builds objects from a configuration, and checks it."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from omegaconf import DictConfig, OmegaConf

from fer_lightning.run_folder import last_checkpoint

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
"""The folder of the configuration."""

TARGET_PREFIXES = (
    *("fer_lightning.data.", "fer_lightning.models.", "fer_lightning.training.", "fer_lightning.reporting.tracking."),
    *("torch.optim.", "timm.optim.", "pytorch_lightning.callbacks.", "pytorch_lightning.trainer.trainer."),
)
"""Where the object of a `_target_` must be defined, since a config may come from an untrusted checkpoint.

Called with plain data, nothing in these modules writes a file except the cache of a data set, or starts a process
except those that draw faces. Subcommands, which do both, are in other modules.
"""


COUNTS = (
    *("trainer.max_epochs", "trainer.batch_size", "eval.bootstrap", "scheduler.every_epochs"),
    *("finetune.callback.every_epochs", "trainer.num_nodes"),
    *("model.image_size", "model.width", "model.widths", "model.depths", "model.stem_kernel", "model.stem_stride"),
)
"""Keys of some options whose value is a whole number of 1 or more."""

COUNTS_OR_ZERO = (
    *("data.workers", "model.hidden", "scheduler.patience", "scheduler.after_epochs", "finetune.callback.keep_frozen"),
    *("callbacks.early_stopping.patience", "callbacks.ema.update_starting_at_step"),
)
"""Keys of some options whose value is a whole number of 0 or more."""

MOST_RESAMPLES = 100_000
"""Limit of `eval.bootstrap`, which may come from an untrusted checkpoint."""

LISTS = ("model.widths", "model.depths", "model.hidden")
"""The keys above and below that may be a list."""

NULLABLE = ("trainer.gradient_clip_val",)
"""The keys that may be null; any other null would only fail where the value is first used, in the middle of a run."""

_FRACTION, _NOT_NEGATIVE = ("a number from 0 to below 1", 1.0), ("0 or more", math.inf)
RANGES = {
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.momentum": _FRACTION,
    "model.dropout": _FRACTION,
    "model.block_dropout": _FRACTION,
    "model.drop_path": _FRACTION,
    "loss.label_smoothing": _FRACTION,
    "loss.gamma": _NOT_NEGATIVE,
    "scheduler.warmup_fraction": _FRACTION,
    "scheduler.warmup_epochs": _NOT_NEGATIVE,
    "scheduler.final_fraction": ("a number from 0 to 1", math.nextafter(1.0, 2.0)),
    "scheduler.factor": _NOT_NEGATIVE,
    "scheduler.min_lr": _NOT_NEGATIVE,
    "callbacks.ema.decay": _FRACTION,
    "trainer.gradient_clip_val": _NOT_NEGATIVE,
    "tracking.timeout": _NOT_NEGATIVE,
}
"""Keys of some options, with a description of the valid values and their exclusive upper bound."""

CHOICES: Mapping[str, tuple[str | int | None, ...]] = {
    "data.resident": ("auto", True, False),
    "data.sampler": ("shuffled", "balanced"),
    "data.targets": ("labels", "votes"),
    "eval.average": ("probabilities", "logits"),
    "model.channels": (1, 3),
    "objective_mode": ("max", "min"),
    "second_objective": (None, "parameters", "latency"),
    "trainer.compile": (True, False),
    "trainer.on_nan": ("stop", "skip"),
    "trainer.precision": ("auto", "32-true", "bf16-mixed", "16-mixed"),
}
"""Keys with a fixed set of values."""


LESS_IS_BETTER = ("train/loss", "val/loss", "val/ece")
"""The metrics of an epoch for which smaller is better."""


_ABSENT = object()


def nearest(name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> str:
    """`; did you mean 'lr'?`, with up to `count` names, or a full stop if no known name is close."""
    found = difflib.get_close_matches(name, known, n=count, cutoff=cutoff)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else "."


def to_container(config: Any) -> Any:
    """Return a resolved copy in plain containers, which `torch.load(weights_only=True)` can load."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def build(config: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Call the `_target_` of a config with its other keys, `args` and `kwargs`; with `_partial_`, return a partial.

    Raises:
        ValueError: The `_target_` is missing, is not defined under `TARGET_PREFIXES`, or does not take these keys.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"{str(config)[:40]!r} must be an option of conf/ with its _target_")
    options = {key: value for key, value in config.items() if key not in ("_target_", "_partial_")} | kwargs
    target = config.get("_target_")
    call = target_of(config)
    if config.get("_partial_"):
        return partial(call, *args, **options)
    try:
        inspect.signature(call).bind(*args, **options)
        return call(*args, **options)
    except TypeError as error:  # an option is missing, unknown, or of another type
        raise ValueError(f"{target}: {error}") from error


def target_of(config: object, under: tuple[str, ...] = TARGET_PREFIXES) -> Callable[..., Any]:
    """Return the object that `_target_` names: a public class or function of a module, not a method.

    Args:
        config: An option of conf/.
        under: Prefixes of dotted names; one must match the name and the module that defines the object.

    Raises:
        ValueError: It is missing, or not defined under one of the prefixes.
    """
    target = config.get("_target_") if isinstance(config, Mapping) else config
    found: Any = None
    if isinstance(target, str) and target.startswith((*under, "pytorch_lightning.Trainer")):
        module, _, name = target.rpartition(".")
        found = None if name.startswith("_") else _found(module, name)
    if not callable(found) or not f"{getattr(found, '__module__', '')}.".startswith(under):
        shown = repr(target)[:100] if isinstance(target, (str, type(None))) else f"of type {type(target).__name__}"
        raise ValueError(f"_target_ {shown} is not allowed: it must be under {' or '.join(under)}")
    allowed: Callable[..., Any] = found
    return allowed


def _found(module: str, name: str) -> Any:
    """Return an attribute of a module by its name.

    Raises:
        ValueError: The module has no such name, or cannot be imported; the message is the reason.
    """
    try:
        inside = vars(importlib.import_module(module))
    except ModuleNotFoundError as error:
        if module.startswith(str(error.name)):
            raise ValueError(f"_target_ {module}.{name} is not allowed: there is no module {error.name}") from None
        raise ValueError(f"_target_ {module}.{name}: {error}") from None
    except (ImportError, SyntaxError, ValueError) as error:
        raise ValueError(f"_target_ {module}.{name}: {error}") from None
    if name not in inside:
        raise ValueError(f"_target_ {module}.{name}: the module has no such name{nearest(name, inside)}")
    return inside[name]


def flatten(config: Mapping[str, Any], prefix: str = "", *, targets: bool = False) -> dict[str, Any]:
    """`{"optimizer": {"lr": 1}}` as `{"optimizer.lr": 1}`; lists stay whole, `_target_` counts only with `targets`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.", targets=targets)
        elif targets or key != "_target_":
            flat[f"{prefix}{key}"] = value
    return flat


def check(config: DictConfig) -> None:
    """Check values of a configuration before any data is read.

    Raises:
        ValueError: A value is invalid; the message is one sentence with the key, its value and the valid values.
    """
    rate = OmegaConf.select(config, "optimizer.lr")
    if not _is_number(rate) or rate <= 0:
        raise ValueError(f"optimizer.lr is {rate!r}; it must be a number above 0")
    for keys, least in ((COUNTS, 1), (COUNTS_OR_ZERO, 0)):
        for key, value, each in _given(config, keys):
            if not isinstance(each, int) or isinstance(each, bool) or each < least:
                allowed = f"a whole number {'above 0' if least else 'of 0 or more'}"
                raise ValueError(f"{key} is {_yaml(value)}; it must be {allowed}")
    if config.eval.bootstrap > MOST_RESAMPLES:
        raise ValueError(f"eval.bootstrap is {config.eval.bootstrap}; it must be {MOST_RESAMPLES} or less")
    every, epochs = config.trainer.check_val_every_n_epoch, config.trainer.max_epochs
    if not isinstance(every, int) or every < 1 or epochs % every:
        raise ValueError(
            f"trainer.check_val_every_n_epoch is {every!r}; it must be a whole number that divides "
            f"trainer.max_epochs={epochs}, so that the last epoch is validated"
        )
    if not isinstance(config.seed, int) or isinstance(config.seed, bool) or not 0 <= config.seed < 2**32:
        raise ValueError(f"seed is {config.seed!r}; it must be a whole number from 0 to {2**32 - 1}")
    betas = to_container(OmegaConf.select(config, "optimizer.betas"))
    if betas is not None and not (isinstance(betas, list) and all(_is_number(b) and 0 <= b < 1 for b in betas)):
        raise ValueError(f"optimizer.betas is {betas!r}; it must be a list of numbers from 0 to below 1")
    for key, value, each in _given(config, RANGES):
        allowed, below = RANGES[key]
        if not (_is_number(each) and 0 <= each < below):
            raise ValueError(f"{key} is {_yaml(value)}; it must be {allowed}")
    for key, names in CHOICES.items():
        value = OmegaConf.select(config, key)
        if value not in names:
            listed = " or ".join(_yaml(name) for name in names)
            raise ValueError(f"{key} is {_yaml(value)}; it must be {listed}")
    if config.resume is not None and not isinstance(config.resume, str):
        raise ValueError(f"resume is {config.resume!r}; it must be auto or a run's last.ckpt")
    if config.resume and Path(config.resume).is_dir():
        raise ValueError(f"resume={config.resume} is a folder: give {last_checkpoint(Path(config.resume))}")
    if config.resume and config.resume != "auto" and not Path(config.resume).is_file():
        raise FileNotFoundError(
            f"resume={config.resume}: there is no such checkpoint; give a run's last.ckpt, or resume=auto"
        )


def _given(config: DictConfig, keys: Iterable[str]) -> Iterator[tuple[str, Any, Any]]:
    """For each key in a configuration: the key, its value, and the value or, for a list, each of its items."""
    for key in keys:
        value = to_container(OmegaConf.select(config, key, default=_ABSENT))
        if isinstance(value, list) and key not in LISTS:
            raise ValueError(f"{key} is {value!r}; it must be one value (lists are for -m: {key}=a,b)")
        if value is _ABSENT or (value is None and key in NULLABLE):
            continue
        for each in value if isinstance(value, list) else [value]:
            yield key, value, each


def _yaml(value: object) -> str:
    """Return a value in yaml syntax; strings in quotes."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
