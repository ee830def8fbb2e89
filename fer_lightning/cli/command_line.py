"""Parses command lines: the order of words, mistakes in them, the configuration that they compose."""

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
from fer_lightning.run_folder import run_of

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

MULTIRUN, SHOW = {"-m", "--multirun"}, {"-c", "--cfg", "--resolve", "-p", "--package"}
"""Flags for many runs, and those that show a configuration and run nothing."""

NOT_CHOSEN = ("ensemble", "hydra", "local")
"""Folders of conf/ that are no groups of a run."""


def overrides_last(words: Sequence[str]) -> list[str]:
    """A command line in the order that Hydra's parser takes: flags may stand anywhere between `key=value` words.

    `model=vgg -m optimizer.lr=1e-4,3e-4` becomes `-m model=vgg optimizer.lr=1e-4,3e-4`.
    """
    overrides = [word for word in words if ("=" in word and not word.startswith("-")) or word.startswith("~")]
    return [word for word in words if word not in overrides] + overrides


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
    from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
    from hydra.types import RunMode

    typed = [word for word in words if not word.startswith("-")]
    with initialize_config_dir(str(conf), version_base="1.3"):
        try:
            parsed = OverridesParser.create().parse_overrides(typed)
            _check_options(parsed, conf)
            for overrides in _each_once(parsed, conf):
                composed = compose("config", overrides, return_hydra_config=True)
                many = bool(flags & MULTIRUN) or composed.hydra.mode == RunMode.MULTIRUN
                if many:
                    _check_job(composed)
            if not many:
                _check_one_run(parsed, [] if flags & SHOW else composed.hydra.sweeper.get("params") or [])
            _check_search(parsed, composed.hydra.runtime.choices)
            _check_data_folder(parsed, composed.hydra.runtime.choices)
            if not flags & SHOW:
                _check_run_folder(parsed, composed.hydra.sweep.dir, "hydra.sweep.dir" if many else "hydra.run.dir")
        except (ConfigCompositionException, OverrideParseException) as error:
            raise ValueError(_explained(error, typed, conf)) from None
        except HydraException as error:  # a list that cannot be unrolled, as range(1,2,0)
            raise ValueError(" ".join(str(error).split())) from None


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


def _check_search(overrides: Sequence[Override], choices: Mapping[str, str]) -> None:
    """Refuses a range to search in where nothing searches; Hydra's own multirun takes lists alone."""
    from hydra.core.override_parser.types import ValueType

    for override in overrides:
        if override.value_type is ValueType.INTERVAL_SWEEP and choices["hydra/sweeper"] == "basic":
            raise ValueError(f"{override.input_line} is a range to search in: add hydra/sweeper=fer_optuna")


def _check_job(config: DictConfig) -> None:
    """Refuses a job to which a multirun would come after the trainings of those before it."""
    try:
        check(config)
    except InterpolationResolutionError:  # of what is known when the job runs
        pass
    except OSError as error:
        raise ValueError(str(error)) from None


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
        sweep_dir: `hydra.sweep.dir`; where no folder is typed, that of one run lies in the same place, or with `resume`
            where its checkpoint does.
        key: What names the folder of the run, or of the runs.
    """
    given = {override.key_or_group: str(override.value()).strip("'\"") for override in overrides}
    folder, named = Path(sweep_dir).parent, key
    if key in given:
        folder, named = Path(given[key]), f"{key}={given[key]}"
    elif key == "hydra.run.dir" and (checkpoint := Path(given.get("resume", ""))).parent.name == "checkpoints":
        folder, named = run_of(checkpoint), f"resume={checkpoint} (hydra.run.dir=NEW takes another folder)"
    check_writable(folder, named)
    if folder.is_file():
        raise ValueError(f"{key}={folder} is a file, and must be a folder")


def _each_once(overrides: Sequence[Override], conf: Path) -> list[list[str]]:
    """Command lines of single runs that between them try everything which a multirun lists, one change at a time.

    Raises:
        ValueError: A list is empty, or Hydra's own settings are listed.
    """
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep, ValueType

    fixed, listed = [], []
    for override in overrides:
        key, swept = override.get_key_element(), override.value()
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif override.is_hydra_override():
            raise ValueError(f"{override.input_line}: Hydra's own settings are the same for all runs of a multirun")
        elif isinstance(swept, IntervalSweep):
            fixed.append(f"{key}={swept.start}")
        elif override.value_type is ValueType.GLOB_CHOICE_SWEEP:  # which lists only what there is
            if not (conf / key).is_dir():
                raise ValueError(f"{override.input_line}: glob chooses options of a group, and {key} is none")
        else:
            values = list(override.sweep_string_iterator())
            if not values:
                raise ValueError(f"{override.input_line} lists nothing")
            ends = [values[0], values[-1]] if isinstance(swept, RangeSweep) else values
            listed.append([f"{key}={value}" for value in ends])
    first = [words[0] for words in listed]
    others = [[*first[:at], word, *first[at + 1 :]] for at, words in enumerate(listed) for word in words[1:]]
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
        known = [*flatten(keys), *groups(conf)]
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
    return sorted({*keys, *groups(conf)} - {"defaults"})


def groups(conf: Path) -> list[str]:
    """The groups that a run chooses from."""
    return sorted(folder.name for folder in conf.iterdir() if folder.is_dir() and folder.name not in NOT_CHOSEN)


def _options_with(key: str, conf: Path) -> list[str]:
    """The options, as `group=option`, of the key's own group that have this key."""
    group, _, rest = key.partition(".")
    files = sorted((conf / group).glob("*.yaml")) if rest and group in groups(conf) else []
    held: dict[str, Any] = {file.stem: OmegaConf.to_container(OmegaConf.load(file)) for file in files}
    return [f"{group}={option}" for option, content in held.items() if rest in flatten(content or {})]


def split_words(arguments: Sequence[str], own: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """A verb's own words by key, and the overrides in their order.

    Raises:
        ValueError: A key is neither the verb's nor one of the configuration, or one of the verb's is given twice or
            without a value, or `checkpoint` is missing.
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
