"""Hydra overrides as strings: `optimizer.lr=1e-4`, `model=vgg`, `+key=value`, `~key`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from fer_lightning.redaction import redact

WITHOUT_EFFECT = (
    *("resume", "tracking", "data.workers", "data.resident"),
    *("paths.output_dir", "paths.mlruns_dir", "paths.results_dir"),
)
"""Groups and keys that change no result: output paths, tracking, loading of batches."""

DATA_PATHS = ("data.path", "data.votes_path")
"""Keys with the paths of a data set's files."""


def key_of(override: str) -> str:
    """Return the key or group that an override sets: `optimizer.lr` of `+optimizer.lr=1e-4`."""
    return override.lstrip("+~").partition("=")[0]


def is_under(key: str, *names: str) -> bool:
    """Whether a key is one of these keys or groups, or inside one of them, as `paths.data_dir` in `paths`."""
    return any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in names)


def drop_overrides(overrides: Iterable[str], *names: str) -> list[str]:
    """Return the overrides without those of these keys and groups, in their order."""
    return [override for override in overrides if not is_under(key_of(override), *names)]


def value_of(overrides: Iterable[str], key: str) -> str | None:
    """Return the value of a key, None if no override sets it; the last of several counts."""
    values = [override.partition("=")[2] for override in overrides if key_of(override) == key]
    return values[-1] if values else None


def drop_replaced(earlier: Iterable[str], later: Iterable[str]) -> list[str]:
    """Return the earlier overrides that no later one replaces, by its key or by the group of its key."""
    replaced = {key_of(override) for override in later}
    return [o for o in earlier if not {key_of(o), key_of(o).partition(".")[0]} & replaced]


def merge_overrides(earlier: Iterable[str], later: Sequence[str]) -> list[str]:
    """Return the earlier overrides that no later one replaces (`drop_replaced`), then the later ones."""
    return [*drop_replaced(earlier, later), *later]


def effective_overrides(overrides: Iterable[str]) -> list[str]:
    """Return the overrides that affect the result of a training, sorted, without the default `seed=0`."""
    effective = drop_overrides(overrides, *WITHOUT_EFFECT, *DATA_PATHS, "hydra", "paths")
    return sorted(override for override in effective if override != "seed=0")


def strip_folders(override: str) -> str:
    """`data.path=/home/me/fer2013.csv` as `data.path=fer2013.csv`: local paths are not published."""
    key, equals, value = override.partition("=")
    return key + equals + ",".join(Path(path).name for path in value.split(","))


def train_command(overrides: Iterable[str]) -> str:
    """Return the shell command that repeats a run, with passwords redacted."""
    return shlex.join(["python", "train.py", *map(redact, overrides)])


def verb_command(verb: str, arguments: Iterable[str]) -> str:
    """Return the shell command that repeats a subcommand, with passwords redacted."""
    return shlex.join(["python", "-m", "fer_lightning", verb, *map(redact, arguments)])


def overrides_of(command: str) -> list[str]:
    """Return the overrides of a `train_command`."""
    return shlex.split(command)[2:]
