"""Parses command lines: the order of arguments, errors in them, the configuration that they compose."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from fer_lightning.config import CONF, check, flatten, nearest
from fer_lightning.files import check_writable
from fer_lightning.run.resolvers import register_resolvers
from fer_lightning.run_folder import in_run_folder, run_of

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

MULTIRUN, SHOW = {"-m", "--multirun"}, {"-c", "--cfg", "--resolve", "-p", "--package"}
"""Flags of a multirun, and flags that show a configuration and run nothing."""

NOT_GROUPS = ("ensemble", "hydra", "local")
"""Folders of conf/ that are not groups of a run."""


def overrides_last(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments in the order that Hydra's parser needs: flags first, then overrides.

    `model=vgg -m optimizer.lr=1e-4,3e-4` becomes `-m model=vgg optimizer.lr=1e-4,3e-4`.
    """
    overrides = [word for word in arguments if ("=" in word and not word.startswith("-")) or word.startswith("~")]
    return [word for word in arguments if word not in overrides] + overrides


def check_command_line(conf: Path, arguments: Sequence[str]) -> None:
    """Compose the configuration of a command line, so that an error is one sentence.

    Args:
        conf: The absolute folder of the configuration.
        arguments: The command line without the program. With flags other than those of a run or its configuration,
            nothing is checked.

    Raises:
        ValueError: A key, group or option does not exist, and the message names the nearest that does; or flags and
            overrides contradict each other.
    """
    flags = {word for word in arguments if word.startswith("-")}
    if flags - MULTIRUN - SHOW:
        return
    if flags & MULTIRUN and flags & SHOW:
        raise ValueError("--cfg shows the configuration of one run: leave -m and lists of values out")
    if "--resolve" in flags and not flags & {"-c", "--cfg"}:
        raise ValueError("--resolve belongs to --cfg: python train.py --cfg job --resolve")
    if flags & SHOW:
        arguments = [word for word in arguments if "=" in word or word.startswith("~")]  # without the flags' values
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
    from hydra.types import RunMode

    overrides = [word for word in arguments if not word.startswith("-")]
    with initialize_config_dir(str(conf), version_base="1.3"):
        try:
            parsed = OverridesParser.create().parse_overrides(overrides)
            _check_options(parsed, conf)
            for single in _single_runs(parsed, conf):
                config = compose("config", single, return_hydra_config=True)
                multirun = bool(flags & MULTIRUN) or config.hydra.mode == RunMode.MULTIRUN
                if multirun:
                    _check_job(config)
            if not multirun:
                _check_single_run(parsed, [] if flags & SHOW else config.hydra.sweeper.get("params") or [])
            _check_search(parsed, config.hydra.runtime.choices)
            _check_data_folder(parsed, config.hydra.runtime.choices)
            if not flags & SHOW:
                _check_run_folder(parsed, config.hydra.sweep.dir, "hydra.sweep.dir" if multirun else "hydra.run.dir")
        except (ConfigCompositionException, OverrideParseException) as error:
            raise ValueError(_explain(error, overrides, conf)) from None
        except HydraException as error:  # a sweep that cannot be expanded, as range(1,2,0)
            raise ValueError(" ".join(str(error).split())) from None


def compose_config(conf: Path, overrides: Sequence[str], earlier: Sequence[str] = ()) -> DictConfig:
    """Compose the configuration of a subcommand, without an output folder.

    Args:
        conf: The absolute folder of the configuration.
        overrides: The subcommand's overrides.
        earlier: Overrides of an earlier run, applied first.

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
            return compose("config", [*earlier, "paths.output_dir=null", *overrides])
        except (ConfigCompositionException, OverrideParseException) as error:
            raise ValueError(_explain(error, overrides, conf)) from None


def _check_options(overrides: Sequence[Override], conf: Path) -> None:
    """Refuse numbers, lists and dicts as the option of a group, on which Hydra fails with an unclear error."""
    for override in overrides:
        group, value = override.key_or_group, override.value()
        names = value if isinstance(value, list) else [value]
        if group and (conf / group).is_dir() and any(isinstance(name, (int, float, dict, list)) for name in names):
            known = ", ".join(sorted(file.stem for file in (conf / group).glob("*.yaml")))
            raise ValueError(f"{group}={value}: there is no such option. There are {known}")


def _check_single_run(overrides: Sequence[Override], searched: Iterable[str]) -> None:
    """Refuse overrides that need a multirun.

    Args:
        overrides: The command line.
        searched: The keys that a search samples. If the command line sets them, `search=...` is valid for a single
            run, as in the command that trains the best trial again.
    """
    given = {override.key_or_group for override in overrides}.intersection(searched)
    for override in overrides:
        if override.is_sweep_override():
            raise ValueError(f"{override.input_line} means several runs: add -m")
        if override.key_or_group == "search" and not override.is_delete() and searched and not given:
            raise ValueError(f"{override.input_line} needs a multirun: python train.py -m {override.input_line}")


def _check_search(overrides: Sequence[Override], choices: Mapping[str, str]) -> None:
    """Refuse a search range without a search; Hydra's basic sweeper takes only lists."""
    from hydra.core.override_parser.types import ValueType

    for override in overrides:
        if override.value_type is ValueType.INTERVAL_SWEEP and choices["hydra/sweeper"] == "basic":
            raise ValueError(f"{override.input_line} is a search range: add hydra/sweeper=fer_optuna")


def _check_job(config: DictConfig) -> None:
    """Check a job of a multirun before any job trains."""
    try:
        check(config)
    except InterpolationResolutionError:  # of values that are known only when the job runs
        pass
    except OSError as error:
        raise ValueError(str(error)) from None


def _check_data_folder(overrides: Sequence[Override], choices: Mapping[str, str]) -> None:
    """Refuse `paths.data_dir` with `data=auto`, which is resolved before overrides are applied."""
    for override in overrides:
        if override.key_or_group == "paths.data_dir" and choices["data"] == "auto":
            folder = override.value()
            raise ValueError(
                f"data=auto does not search {override.input_line}: set FER_DATA_DIR={folder}, or add data=fer2013"
            )


def _check_run_folder(overrides: Sequence[Override], sweep_dir: str, key: str) -> None:
    """Refuse a folder that is not writable, on which Hydra fails with an unclear error.

    Args:
        overrides: The command line.
        sweep_dir: `hydra.sweep.dir`; by default the folder of a single run has the same parent; with `resume` it is
            that of the checkpoint.
        key: The key of the folder of the run or the multirun.
    """
    given = {override.key_or_group: str(override.value()).strip("'\"") for override in overrides}
    folder, shown = Path(sweep_dir).parent, key
    if key in given:
        folder, shown = Path(given[key]), f"{key}={given[key]}"
    elif key == "hydra.run.dir" and in_run_folder(checkpoint := Path(given.get("resume", ""))):
        folder, shown = run_of(checkpoint), f"resume={checkpoint} (use another folder with hydra.run.dir=NEW)"
    check_writable(folder, shown)
    if folder.is_file():
        raise ValueError(f"{key}={folder} is a file; it must be a folder")


def _single_runs(overrides: Sequence[Override], conf: Path) -> list[list[str]]:
    """Return overrides of single runs that together include every value of a multirun's sweeps, one change at a time.

    Raises:
        ValueError: A sweep is empty, or one of Hydra's own settings is swept.
    """
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep, ValueType

    fixed, swept = [], []
    for override in overrides:
        key, sweep = override.get_key_element(), override.value()
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif override.is_hydra_override():
            raise ValueError(f"{override.input_line}: Hydra's own settings are the same for all runs of a multirun")
        elif isinstance(sweep, IntervalSweep):
            fixed.append(f"{key}={sweep.start}")
        elif override.value_type is ValueType.GLOB_CHOICE_SWEEP:  # lists only existing options
            if not (conf / key).is_dir():
                raise ValueError(f"{override.input_line}: glob lists the options of a group, and {key} is not a group")
        else:
            values = list(override.sweep_string_iterator())
            if not values:
                raise ValueError(f"{override.input_line} is an empty list")
            tested = [values[0], values[-1]] if isinstance(sweep, RangeSweep) else values
            swept.append([f"{key}={value}" for value in tested])
    first = [values[0] for values in swept]
    others = [[*first[:at], value, *first[at + 1 :]] for at, values in enumerate(swept) for value in values[1:]]
    return [fixed + chosen for chosen in [first, *others]]


def _explain(error: Exception, overrides: Sequence[str], conf: Path) -> str:
    """Hydra's composition error as one sentence that names the nearest valid key or option."""
    from hydra import compose
    from hydra.errors import HydraException, OverrideParseException

    if isinstance(error, OverrideParseException):
        key, equals, value = str(error.override).partition("=")
        if '"' in value or "'" in value:
            return f"{error.override} cannot be parsed: a quote in it is not closed, or does not enclose a whole value"
        if key and equals and value:
            quoted = shlex.quote(f'{key}="{value}"')
            return f"{error.override} cannot be parsed; if this is one value, quote it for Hydra: {quoted}"
        return f"{error.override} is not key=value: {error.message.splitlines()[0]}"
    message = str(error)
    if found := re.search(r"Could not find '(.+)/([^/']+)'", message):
        group, option = found.groups()
        options = re.findall(r"^\t(?!provider=)(\S+)$", message, flags=re.MULTILINE)
        return f"{group}={option}: there is no such option{nearest(option, options)} There are {', '.join(options)}"
    if found := re.match(r"Could not override '(.+)'", message):
        key = found[1]
        if key == "ensemble":
            return "ensemble is not a group of a run: `python -m fer_lightning baselines run NAME` trains its members"
        try:
            rest = [word for word in overrides if not word.lstrip("+~").startswith(key)]
            config = compose("config", rest, return_hydra_config=True)
        except HydraException:  # more than one override is wrong
            config = compose("config", return_hydra_config=True)
        keys: Any = OmegaConf.to_container(config)
        flat = flatten(keys, targets=True)
        known = [*(name for name in flat if not name.endswith("_target_")), *groups(conf)]
        if options := _options_with(key, conf):
            return f"{key} is a key of {' or '.join(options)}: add that option"
        same_name = [name for name in known if name.rsplit(".")[-1] == key.rsplit(".")[-1]]
        hint = nearest(key, same_name, count=3, cutoff=0) if same_name else nearest(key, known)
        parent = key.rpartition(".")[0]  # whose constructor refuses an argument that it does not know
        is_argument = parent == "trainer" or f"{parent}._target_" in flat
        return f"there is no key {key!r}{hint}" + f" (+{key}=... passes it as an argument)" * is_argument
    if found := re.match(r"Multiple values for (\S+)\. ", message):
        return f"{found[1]} is a group of every run: select its option with {found[1]}=NAME, without +"
    reason = str(error.__cause__ or "").partition("\n")[0]
    return " ".join(f"{message}: {reason}".split()) if reason else " ".join(message.split())


def top_level(conf: Path) -> list[str]:
    """Return the top-level keys and groups."""
    keys: Any = OmegaConf.to_container(OmegaConf.load(conf / "config.yaml"))
    return sorted({*keys, *groups(conf)} - {"defaults"})


def groups(conf: Path) -> list[str]:
    """Return the config groups of a run."""
    return sorted(folder.name for folder in conf.iterdir() if folder.is_dir() and folder.name not in NOT_GROUPS)


def _options_with(key: str, conf: Path) -> list[str]:
    """Return the options of the key's group, as `group=option`, that have this key."""
    group, _, rest = key.partition(".")
    files = sorted((conf / group).glob("*.yaml")) if rest and group in groups(conf) else []
    return [f"{group}={file.stem}" for file in files if rest in _keys(file)]


def _keys(option: Path) -> set[str]:
    """Return the keys of an option, with those of the options of its group in its defaults list."""
    if not option.is_file():  # of another group
        return set()
    content: Any = OmegaConf.to_container(OmegaConf.load(option)) or {}
    defaults = content.pop("defaults", [])
    keys = set(flatten(content))
    for entry in defaults:
        if isinstance(entry, str):
            keys |= _keys(option.parent / f"{entry}.yaml")
        else:  # an option of a group inside of this one
            [(group, name)] = entry.items()
            keys |= {f"{group}.{key}" for key in _keys(option.parent / group / f"{name}.yaml")}
    return keys


def split_arguments(arguments: Sequence[str], own: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return a subcommand's own arguments by key, and the overrides in their order.

    Raises:
        ValueError: A key is neither the subcommand's nor one of the configuration, one of the subcommand's is given
            twice or without a value, or `checkpoint` is missing.
    """
    given: dict[str, str] = {}
    overrides = []
    for word in arguments:
        key, equals, value = word.partition("=")
        if key in own:
            if key in given or not value:
                raise ValueError(f"give {key}=... once, and with a value")
            given[key] = value
            continue
        if equals and key.isidentifier() and key not in (known := top_level(CONF)):
            raise ValueError(f"there is no key {key!r}{nearest(key, [*own, *known])}")
        overrides.append(word)
    if "checkpoint" in own and "checkpoint" not in given:
        raise ValueError("give one checkpoint=RUN, the folder of a run")
    return given, overrides
