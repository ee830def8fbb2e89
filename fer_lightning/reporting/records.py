"""Records of measured runs as JSON: reading, validation and publishing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_lightning.files import free_path, write_json
from fer_lightning.overrides import key_of, strip_folders

RESULTS = Path("results")
"""Folder of the published records, the rows of the results table."""

SUPERSEDED = "superseded"
"""Folder beside the published records for records that were replaced by a later measurement."""

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


def recorded_scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Select the scores of one part of the data that a record contains."""
    return {name: scores[name] for name in RECORDED_SCORES if name in scores}


def scores_by_part(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Select the scores of each measured part that the record of a measurement contains.

    Those of `test` include the `confusion_matrix`: integer counts, rows are the true classes, columns the predicted
    ones, in the order of `per_class_f1`.
    """
    return {
        part: recorded_scores(row) | ({"confusion_matrix": row["confusion_matrix"]} if part == "test" else {})
        for part, row in scores.items()
    }


def record_name(name: str, seed: int) -> str:
    """Return the file name of the published record of an experiment or ensemble: `ours_seed0.json`."""
    return f"{name}_seed{seed}.json"


def read_record(path: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON record and check that it has these keys.

    Raises:
        ValueError: The file is damaged, or a key is missing.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is not a record of a run")
    if missing := [key for key in keys if key not in record]:
        raise ValueError(f"{path} is not a record of a run: it lacks {', '.join(missing)}")
    return record


def publish(path: Path, record: Mapping[str, Any]) -> Path:
    """Write a record for publication: its command without the folders of the data.

    An existing record is moved to `SUPERSEDED`, named by its commit, so that no result is lost; unless it is of the
    same run, which was interrupted after it had published its record.
    """
    arguments = shlex.split(record["command"])
    public = [strip_folders(word) if key_of(word).startswith("data.") else word for word in arguments]
    published = json.loads(json.dumps({**record, "command": shlex.join(public)}))
    existing = read_record(path) if path.is_file() else published
    if any(existing.get(key) != published.get(key) for key in ("commit", "val", "test")):
        archived = path.parent / SUPERSEDED / f"{path.stem}_{existing.get('commit', 'unknown')[:12]}"
        write_json(free_path(archived, ".json"), existing)  # several measurements may have the same commit
    return write_json(path, published)
