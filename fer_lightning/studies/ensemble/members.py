"""The networks of an ensemble and their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from rich.console import Console

from fer_lightning.files import sha256
from fer_lightning.models.network import count_parameters
from fer_lightning.studies.trained import TrainedRun
from fer_lightning.training.checkpoint_io import checkpoint_of, existing_checkpoint
from fer_lightning.training.metrics import Predictions


@dataclass(frozen=True)
class Member:
    """A network of an ensemble.

    Attributes:
        checkpoint: Its checkpoint.
        record: Its entry in the ensemble's record.
        parts: Its predictions on `val` and `test`.
    """

    checkpoint: Path
    record: dict[str, Any]
    parts: dict[str, Predictions]


def parse_members(text: str) -> list[Path]:
    """Return the runs and checkpoints that `members=` lists, without duplicates.

    Args:
        text: Paths or patterns, `[a,b]` or `a,b`; matches of a pattern without a checkpoint are ignored.

    Raises:
        ValueError: There are none, or only one that is listed more than once.
    """
    paths: list[Path] = []
    listed = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    for entry in listed.split(","):
        entry = entry.strip().strip("'\"")
        if not has_magic(entry):
            paths += [Path(entry)] if entry else []
            continue
        matches = [path for path in map(Path, sorted(glob(entry))) if checkpoint_of(path).is_file()]
        if not matches:
            raise ValueError(f"members: no run or checkpoint matches {entry}")
        paths += matches
    if not paths:
        raise ValueError("members lists no run; give members=[RUN,RUN,...]")
    by_checkpoint: dict[Path, Path] = {}
    for path in paths:
        by_checkpoint.setdefault(checkpoint_of(path).resolve(), path)
    distinct = list(by_checkpoint.values())
    if len(distinct) == 1 < len(paths):
        raise ValueError(f"members lists {distinct[0]} more than once and no other network")
    return distinct


def predict_members(
    paths: Sequence[Path], overrides: Sequence[str], console: Console
) -> tuple[list[Member], TrainedRun]:
    """Predict the val and test parts with each network.

    Args:
        paths: Runs or checkpoints.
        overrides: Hydra overrides for all of them.
        console: Where to print the progress.

    Returns:
        The members, and the first network with its data.

    Raises:
        ValueError: They differ in data, protocol or classes, or were trained on other data than the current data.
    """
    members: list[Member] = []
    first: TrainedRun | None = None
    for path in paths:
        existing_checkpoint(path)
    for number, path in enumerate(paths, start=1):
        trained = TrainedRun.load(path, overrides)
        first = first or trained
        check_compatible(first, trained)
        console.print(f"{number}/{len(paths)}  {path}", markup=False, highlight=False, soft_wrap=True)
        parts = {part: trained.predictions(part) for part in ("val", "test")}
        members.append(Member(trained.checkpoint, member_record(trained), parts))
    assert first is not None
    return members, first


def check_compatible(first: TrainedRun, other: TrainedRun) -> None:
    """Check that two networks can be members of one ensemble.

    Raises:
        ValueError: They differ in data, protocol or classes, or `other` was trained on other data than the current
            data.
    """
    for what, value, other_value in (
        ("on the data", first.provenance["data_fingerprint"][:12], other.provenance["data_fingerprint"][:12]),
        ("under the protocol", first.provenance["protocol"], other.provenance["protocol"]),
        ("on the classes", ", ".join(first.module.classes), ", ".join(other.module.classes)),
    ):
        if value != other_value:
            raise ValueError(
                f"members must have the same data, protocol and classes: {first.checkpoint} was trained {what} "
                f"{value}, {other.checkpoint} {what} {other_value}"
            )
    expected = (other.provenance["data_fingerprint"], other.provenance["protocol"])
    if expected != (other.faces.fingerprint, other.split.name):
        raise ValueError(
            f"{other.checkpoint} was trained on {other.provenance['data']} {expected[0][:12]} under {expected[1]}, but "
            f"the current data is {other.faces.name} {other.faces.fingerprint[:12]} under {other.split.name}; "
            "set data.path=... to the file that it was trained on"
        )


def member_record(trained: TrainedRun) -> dict[str, Any]:
    """Return the entry of a member in the record: its run, checkpoint and views, and the cost of its training."""
    record = trained.record
    return {
        "run": str(trained.run),
        "checkpoint": str(trained.checkpoint),
        "checkpoint_sha256": sha256(trained.checkpoint),
        "name": record.get("name"),
        "views": trained.views_name,
        "params": count_parameters(trained.module.network),
        "minutes": record.get("minutes"),
        "machine": record.get("machine"),
        "command": record.get("command"),
    }
