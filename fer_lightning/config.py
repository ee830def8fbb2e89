"""What happens between yaml and objects: resolvers, building, checks."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, TypeGuard

from omegaconf import DictConfig, OmegaConf

from fer_lightning.files import check_place

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
"""The folder of the configuration."""

TARGET_PREFIXES = (
    *("fer_lightning.data.", "fer_lightning.models.", "fer_lightning.training.", "fer_lightning.reporting.tracking."),
    *("torch.optim.", "timm.optim.", "pytorch_lightning.callbacks.", "pytorch_lightning.trainer.trainer."),
)
"""Where what a `_target_` names must be defined, since a config may come from a checkpoint that somebody sent.

Called with plain data, nothing in these writes a file but the cache of a data set, or starts a process but those that
draw faces. Verbs, which do, lie elsewhere.
"""


COUNTS = (
    *("trainer.max_epochs", "trainer.batch_size", "eval.bootstrap", "scheduler.every_epochs"),
    *("model.image_size", "model.width", "model.widths", "model.depths", "model.stem_kernel", "model.stem_stride"),
)
"""Keys that some options have and that are a whole number from 1 on, or a list of such."""

COUNTS_OR_NONE = ("data.workers", "model.hidden", "scheduler.patience", "scheduler.after_epochs")
"""The same from 0 on."""

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
    "callbacks.ema.decay": _FRACTION,
    "trainer.gradient_clip_val": _NOT_NEGATIVE,
    "tracking.timeout": _NOT_NEGATIVE,
}
"""Keys that some options have, with what they, or all in their list, must be and the number to stay below."""

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
"""Keys that are one of a few names."""


MULTIRUN, SHOW = {"-m", "--multirun"}, {"-c", "--cfg", "--resolve", "-p", "--package"}
"""Flags for many runs, and those that show a configuration and run nothing."""

NOT_CHOSEN = ("ensemble", "hydra", "local")
"""Folders of conf/ that are no groups of a run."""

LESS_IS_BETTER = ("train/loss", "val/loss", "val/ece")
"""The metrics of an epoch of which a smaller value is the better one."""


def register_resolvers() -> None:
    """Registers the interpolations that `conf/` uses; safe to call twice."""
    OmegaConf.register_new_resolver("default_data", _default_data, replace=True)
    OmegaConf.register_new_resolver("chosen", lambda *names: next(n for n in names if n), replace=True)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)


def _default_data() -> str:
    """The `data` option that `data=auto` stands for: `fer2013` if it lies in the data folder, else `synthetic`."""
    from fer_lightning.data.locate import find_fer2013

    return "fer2013" if find_fer2013(os.environ.get("FER_DATA_DIR", "data")) else "synthetic"


def _run_folder(fresh: str, *, _root_: DictConfig) -> str:
    """Where Hydra puts the run: the new folder, or that of the run which `resume` goes on with."""
    from fer_lightning.training.resume import run_folder

    return run_folder(fresh, _root_)


def overrides_last(words: Sequence[str]) -> list[str]:
    """A command line in the order that Hydra's parser takes: flags may stand anywhere between `key=value` words.

    `model=vgg -m optimizer.lr=1e-4,3e-4` becomes `-m model=vgg optimizer.lr=1e-4,3e-4`.
    """
    overrides = [word for word in words if ("=" in word and not word.startswith("-")) or word.startswith("~")]
    return [word for word in words if word not in overrides] + overrides


def help_text(conf: Path) -> str:
    """What `--help` prints: `hydra.help` of config.yaml with every group and its options.

    Hydra's own takes seconds where there are many groups, since it copies all configurations for each of them.

    Args:
        conf: The folder of the configuration.
    """
    groups = {group: [option.stem for option in sorted((conf / group).glob("*.yaml"))] for group in _groups(conf)}
    listed = "".join(f"{group}: {', '.join(options)}\n" for group, options in groups.items() if options)
    said = OmegaConf.load(conf / "config.yaml")
    return Template(said.hydra.help.template).substitute(APP_CONFIG_GROUPS=listed)


def check_words(conf: Path, words: Sequence[str]) -> None:
    """Composes what a command line asks for, to say in one sentence why that cannot be.

    Args:
        conf: The absolute folder of the configuration.
        words: The command line without the program. Where a flag asks for something else than a run or its
            configuration, nothing is done.

    Raises:
        ValueError: A key, group or option does not exist, and the message names the nearest that does; or words and
            flags do not go together.
    """
    flags = {word for word in words if word.startswith("-")}
    if flags - MULTIRUN - SHOW:
        return
    if flags & MULTIRUN and flags & SHOW:
        raise ValueError("--cfg shows the configuration of one run: leave -m and lists of values out")
    if "--resolve" in flags and not flags & {"-c", "--cfg"}:
        raise ValueError("--resolve belongs to --cfg: python train.py --cfg job --resolve")
    if flags & SHOW:
        words = [word for word in words if "=" in word or word.startswith("~")]  # without what the flags take
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import ConfigCompositionException, OverrideParseException
    from hydra.types import RunMode

    typed = [word for word in words if not word.startswith("-")]
    with initialize_config_dir(str(conf), version_base="1.3"):
        try:
            parsed = OverridesParser.create().parse_overrides(typed)
            _check_options(parsed, conf)
            for overrides in _each_once(parsed, conf):
                composed = compose("config", overrides, return_hydra_config=True)
            many = bool(flags & MULTIRUN) or composed.hydra.mode == RunMode.MULTIRUN
            if not many:
                _check_one_run(parsed, [] if flags & SHOW else composed.hydra.sweeper.get("params") or [])
            _check_search(parsed, composed.hydra.sweeper)
            _check_data_folder(parsed, composed.hydra.runtime.choices)
            if not flags & SHOW:
                _check_run_folder(parsed, composed.hydra.sweep.dir, "hydra.sweep.dir" if many else "hydra.run.dir")
        except (ConfigCompositionException, OverrideParseException) as error:
            raise ValueError(_explained(error, typed, conf)) from None


def composed(conf: Path, typed: Sequence[str], kept: Sequence[str] = ()) -> DictConfig:
    """The configuration that a verb works with; it has no folder of a run.

    Args:
        conf: The absolute folder of the configuration.
        typed: The verb's overrides.
        kept: Those of an earlier run, on top of which they come.

    Raises:
        ValueError: A key, group or option does not exist; the message names the nearest that does.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import ConfigCompositionException, OverrideParseException

    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        try:
            return compose("config", [*kept, "paths.output_dir=null", *typed])
        except (ConfigCompositionException, OverrideParseException) as error:
            raise ValueError(_explained(error, typed, conf)) from None


def _check_options(overrides: Sequence[Override], conf: Path) -> None:
    """Refuses numbers where a group takes the name of an option; Hydra would stumble over them."""
    for override in overrides:
        group, value = override.key_or_group, override.value()
        names = value if isinstance(value, list) else [value]
        if group and (conf / group).is_dir() and any(isinstance(name, (int, float, dict, list)) for name in names):
            known = ", ".join(sorted(file.stem for file in (conf / group).glob("*.yaml")))
            raise ValueError(f"{group}={value}: there is no such option. There are {known}")


def _check_one_run(overrides: Sequence[Override], searched: Iterable[str]) -> None:
    """Refuses what needs a multirun in a run that is none.

    Args:
        overrides: The command line.
        searched: The keys that a search would choose. One run with its `search=...` is meant where they are typed, as
            in the command that trains the best trial again.
    """
    chosen = {override.key_or_group for override in overrides}.intersection(searched)
    for override in overrides:
        if override.is_sweep_override():
            raise ValueError(f"{override.input_line} stands for several runs: add -m")
        if override.key_or_group == "search" and not override.is_delete() and searched and not chosen:
            raise ValueError(f"{override.input_line} is searched with -m: python train.py -m {override.input_line}")


def _check_search(overrides: Sequence[Override], sweeper: DictConfig) -> None:
    """Refuses a range to search in where nothing searches; Hydra's own multirun takes lists alone."""
    from hydra.core.override_parser.types import ValueType

    for override in overrides:
        if override.value_type is ValueType.INTERVAL_SWEEP and sweeper._target_.endswith("BasicSweeper"):
            raise ValueError(f"{override.input_line} is a range to search in: add hydra/sweeper=fer_optuna")


def _check_data_folder(overrides: Sequence[Override], choices: Mapping[str, str]) -> None:
    """Refuses a folder of data typed beside `data=auto`: what that stands for is known before anything typed is."""
    for override in overrides:
        if override.key_or_group == "paths.data_dir" and choices["data"] == "auto":
            folder = override.value()
            raise ValueError(
                f"data=auto does not look into {override.input_line}: set FER_DATA_DIR={folder}, or add data=fer2013"
            )


def _check_run_folder(overrides: Sequence[Override], sweep_dir: str, key: str) -> None:
    """Refuses a folder in which nothing can be written; Hydra would stumble over it.

    Args:
        overrides: The command line.
        sweep_dir: `hydra.sweep.dir`; where no folder is typed, that of one run lies in the same place.
        key: What names the folder of the run, or of the runs.
    """
    typed = [str(override.value()).strip("'\"") for override in overrides if override.key_or_group == key]
    folder = Path(typed[-1]) if typed else Path(sweep_dir).parent
    check_place(folder, f"{key}={folder}" if typed else key)
    if folder.is_file():
        raise ValueError(f"{key}={folder} is a file, and must be a folder")


def _each_once(overrides: Sequence[Override], conf: Path) -> list[list[str]]:
    """Command lines that between them try every option of a group which a multirun lists, and every key."""
    from hydra.core.override_parser.types import ValueType

    fixed, listed = [], []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif (conf / key).is_dir():
            if override.value_type is not ValueType.GLOB_CHOICE_SWEEP:  # which lists only what there is
                listed.append([f"{key}={option}" for option in override.sweep_string_iterator()])
        else:
            fixed.append(f"{key}=0")
    first = [options[0] for options in listed]
    others = [[*first[:at], option, *first[at + 1 :]] for at, options in enumerate(listed) for option in options[1:]]
    return [fixed + chosen for chosen in [first, *others]]


def _explained(error: Exception, typed: Sequence[str], conf: Path) -> str:
    """Hydra's message why words cannot be composed, as one sentence that names the nearest that can."""
    from hydra import compose
    from hydra.errors import HydraException, OverrideParseException

    if isinstance(error, OverrideParseException):
        key, equals, value = str(error.override).partition("=")
        if '"' in value or "'" in value:
            return f"{error.override} cannot be read: a quote in it has no other half, or does not stand at the ends"
        if key and equals and value:
            quoted = shlex.quote(f'{key}="{value}"')
            return f"{error.override} cannot be read; if this is one value, quote it for Hydra: {quoted}"
        return f"{error.override} is not key=value: {error.message.splitlines()[0]}"
    message = str(error)
    if found := re.search(r"Could not find '(.+)/([^/']+)'", message):
        group, option = found.groups()
        options = re.findall(r"^\t(?!provider=)(\S+)$", message, flags=re.MULTILINE)
        return f"{group}={option}: there is no such option{nearest(option, options)} There are {', '.join(options)}"
    if found := re.match(r"Could not override '(.+)'", message):
        key = found[1]
        if key == "ensemble":
            return "ensemble is no group of a run: `python -m fer_lightning baselines run NAME` trains its members"
        try:
            composed = compose("config", [word for word in typed if not word.lstrip("+~").startswith(key)])
        except HydraException:  # more than one word is wrong
            composed = compose("config")
        keys: Any = OmegaConf.to_container(composed)
        known = [*flatten(keys), *_groups(conf)]
        if options := _options_with(key, conf):
            return f"{key} belongs to {' or '.join(options)}: add that"
        alike = [name for name in known if name.rsplit(".")[-1] == key.rsplit(".")[-1]]
        near = nearest(key, alike, cutoff=0) if alike else nearest(key, known)
        return f"there is no key {key!r}{near} (+{key}=... adds one that conf/ does not list)"
    reason = str(error.__cause__ or "").partition("\n")[0]
    return " ".join(f"{message}: {reason}".split()) if reason else " ".join(message.split())


def top_level(conf: Path) -> list[str]:
    """The keys and groups that stand before the first dot."""
    keys: Any = OmegaConf.to_container(OmegaConf.load(conf / "config.yaml"))
    return sorted({*keys, *_groups(conf)} - {"defaults"})


def _groups(conf: Path) -> list[str]:
    """The groups that a run chooses from."""
    return sorted(folder.name for folder in conf.iterdir() if folder.is_dir() and folder.name not in NOT_CHOSEN)


def _options_with(key: str, conf: Path) -> list[str]:
    """The options, as `group=option`, of the key's own group that have this key."""
    group, _, rest = key.partition(".")
    files = sorted((conf / group).glob("*.yaml")) if rest and group in _groups(conf) else []
    held: dict[str, Any] = {file.stem: OmegaConf.to_container(OmegaConf.load(file)) for file in files}
    return [f"{group}={option}" for option, content in held.items() if rest in flatten(content or {})]


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean 'lr'?`, or a full stop where no known name is near."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {found[0]!r}?" if found else "."


def plain(config: Any) -> Any:
    """A resolved copy in plain containers; only those load again under `torch.load(weights_only=True)`."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def build(config: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Calls the `_target_` of a config with its other keys, `args` and `kwargs`; `_partial_` only prepares the call.

    Raises:
        ValueError: The `_target_` is missing, is not defined under `TARGET_PREFIXES`, or does not take these keys.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"{str(config)[:40]!r} stands where an option of conf/ with its _target_ must be")
    options = {key: value for key, value in config.items() if key not in ("_target_", "_partial_")} | kwargs
    target = config.get("_target_")
    call = _allowed(target)
    if config.get("_partial_"):
        return partial(call, *args, **options)
    try:
        inspect.signature(call).bind(*args, **options)
        return call(*args, **options)
    except TypeError as error:  # an option is missing, unknown, or of another type
        raise ValueError(f"{target}: {error}") from error


def _allowed(target: object) -> Callable[..., Any]:
    """What a `_target_` names: a class or function of a module, no method of a class and nothing private."""
    found: Any = None
    if isinstance(target, str) and target.startswith((*TARGET_PREFIXES, "pytorch_lightning.Trainer")):
        module, _, name = target.rpartition(".")
        found = None if name.startswith("_") else _found(module, name)
    if not callable(found) or not f"{getattr(found, '__module__', '')}.".startswith(TARGET_PREFIXES):
        shown = repr(target)[:100] if isinstance(target, (str, type(None))) else f"of type {type(target).__name__}"
        raise ValueError(f"_target_ {shown} is not allowed: it must lie under one of {', '.join(TARGET_PREFIXES)}")
    allowed: Callable[..., Any] = found
    return allowed


def _found(module: str, name: str) -> Any:
    """What a module has under a name.

    Raises:
        ValueError: It has nothing of that name, or cannot be imported; the message says why.
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
        raise ValueError(f"_target_ {module}.{name}: the module has nothing of that name{nearest(name, inside)}")
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
    """Finds settings that cannot work before any data is read.

    Raises:
        ValueError: One sentence that names the key, its value and what it must be.
    """
    rate = OmegaConf.select(config, "optimizer.lr")
    if not _is_number(rate) or rate <= 0:
        raise ValueError(f"optimizer.lr is {rate!r}; it must be a number above 0")
    for keys, least in ((COUNTS, 1), (COUNTS_OR_NONE, 0)):
        for key, value, each in _given(config, keys):
            if not isinstance(each, int) or isinstance(each, bool) or each < least:
                raise ValueError(f"{key} is {value!r}; it must be a whole number {'above 0' if least else 'from 0 on'}")
    every, epochs = config.trainer.check_val_every_n_epoch, config.trainer.max_epochs
    if not isinstance(every, int) or every < 1 or epochs % every:
        raise ValueError(
            f"trainer.check_val_every_n_epoch is {every!r}; it must be a whole number that divides "
            f"trainer.max_epochs={epochs}, so that the last epoch is measured"
        )
    if not isinstance(config.seed, int) or isinstance(config.seed, bool) or not 0 <= config.seed < 2**32:
        raise ValueError(f"seed is {config.seed!r}; it must be a whole number from 0 to {2**32 - 1}")
    betas = plain(OmegaConf.select(config, "optimizer.betas"))
    if betas is not None and not (isinstance(betas, list) and all(_is_number(b) and 0 <= b < 1 for b in betas)):
        raise ValueError(f"optimizer.betas is {betas!r}; it must be a list of numbers from 0 to below 1")
    for key, value, each in _given(config, RANGES):
        allowed, below = RANGES[key]
        if not (_is_number(each) and 0 <= each < below):
            raise ValueError(f"{key} is {value!r}; it must be {allowed}")
    for key, names in CHOICES.items():
        value = OmegaConf.select(config, key)
        if value not in names:
            listed = " or ".join(_typed(name) for name in names)
            raise ValueError(f"{key} is {value!r}; it must be {listed}")
    if config.resume is not None and not isinstance(config.resume, str):
        raise ValueError(f"resume is {config.resume!r}; it must be auto or a run's last.ckpt")
    if config.resume and Path(config.resume).is_dir():
        raise ValueError(f"resume={config.resume} is a folder: give {Path(config.resume, 'checkpoints', 'last.ckpt')}")
    if config.resume and config.resume != "auto" and not Path(config.resume).is_file():
        raise FileNotFoundError(
            f"resume={config.resume}: there is no such checkpoint; give a run's last.ckpt, or resume=auto"
        )


def _given(config: DictConfig, keys: Iterable[str]) -> Iterator[tuple[str, Any, Any]]:
    """Of the keys that a configuration has: the key, its value, and the value or, of a list, each one in it."""
    for key in keys:
        value = plain(OmegaConf.select(config, key))
        for each in value if isinstance(value, list) else [] if value is None else [value]:
            yield key, value, each


def _typed(choice: str | int | None) -> str:
    """A choice as it is written in yaml; words in quotes."""
    return repr(choice) if isinstance(choice, str) else "null" if choice is None else str(choice).lower()


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
