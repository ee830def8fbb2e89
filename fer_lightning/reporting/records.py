"""Records of measured runs as JSON: read, checked and published."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_lightning.files import write_json
from fer_lightning.overrides import key_of, without_folders

SUPERSEDED = "superseded"
"""The folder beside published records that keeps those which a later measurement has replaced."""


RECORDED_SCORES = (
    "n",
    "accuracy",
    "accuracy_interval",
    "macro_f1",
    "macro_f1_interval",
    "balanced_accuracy",
    "top2_accuracy",
    "loss",
    "ece",
    "per_class_f1",
)


def recorded(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of one part of the data as a record holds them."""
    return {name: scores[name] for name in RECORDED_SCORES if name in scores}


def read_record(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON record that has these keys.

    Raises:
        ValueError: It is damaged, or lacks one.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is no record of a run")
    if missing := [key for key in keys if key not in record]:
        raise ValueError(f"{path} is no record of a run: it lacks {', '.join(missing)}")
    return record


def publish(path: Path, record: Mapping[str, Any]) -> Path:
    """Writes a record for everybody to read: its command without the folders in which data lie.

    A record that is there already goes to `SUPERSEDED`, named by its commit: what was measured once is never lost.
    """
    if path.is_file():
        before = read_record(path)
        stem, number = f"{path.stem}_{before.get('commit', 'unknown')[:12]}", 1
        place = path.parent / SUPERSEDED / f"{stem}.json"
        while place.exists():  # the same commit measured more than once
            number += 1
            place = place.with_name(f"{stem}_{number}.json")
        write_json(place, before)
    words = shlex.split(record["command"])
    shown = [without_folders(word) if key_of(word).startswith("data.") else word for word in words]
    return write_json(path, {**record, "command": shlex.join(shown)})
