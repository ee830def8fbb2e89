"""The compared protocols and the records of their runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fer_lightning.config import ROOT
from fer_lightning.overrides import effective_overrides, key_of, overrides_of
from fer_lightning.reporting.records import RESULTS, read_record

PUBLISHED = RESULTS / "leaks"

PROTOCOLS = {
    "official": "trained on Training, epoch selected on PublicTest, measured once on PrivateTest",
    "leaky_selected": "the official parts, but PrivateTest itself selects the epoch and lowers the learning rate",
    "leaky_pooled": "all parts pooled, then split at random in the official sizes: copies of an image in several parts",
    "leaky_oversampled": (
        "rare classes oversampled with exact copies to the size of the largest, all pooled, then split at random"
    ),
    "stored_copies": (
        "no leak: the official parts, with augmented copies (mirrored, rotated, in other lighting) of the training "
        "images added"
    ),
    "leaky_augmented": "augmented copies of every image added, all pooled, then split at random",
    "leaky_all": "all leaks together: rare classes oversampled, an augmented copy of every image added, all pooled and "
    "split at random, and the epoch selected on the test part",
}
"""The compared protocols (conf/protocol) with a description of each, the official one first."""

WITHOUT_ADDED_IMAGES = ("official", "leaky_selected", "leaky_pooled")
"""The protocols that add no images, so that their data are equal."""

Records = dict[str, dict[str, Any]]


def settings_of(overrides: Iterable[str]) -> list[str]:
    """Return the overrides that determine a result, without the protocol, sorted."""
    return [override for override in effective_overrides(overrides) if key_of(override) != "protocol"]


def read_records(root: Path = ROOT) -> Records:
    """Read the records of the measured protocols by name, in the order of `PROTOCOLS`.

    Raises:
        ValueError: Two records have different settings or data and cannot be compared.
    """
    paths = [root / PUBLISHED / f"{protocol}.json" for protocol in PROTOCOLS]
    found: Records = {
        path.stem: read_record(path, "command", "data_fingerprint", "test") for path in paths if path.is_file()
    }
    settings = {name: settings_of(overrides_of(record["command"])) for name, record in found.items()}
    for name in found:
        first = next(iter(found))
        if settings[name] != settings[first]:
            raise ValueError(
                f"results/leaks/{name}.json was run with {' '.join(settings[name])}, {first}.json with "
                f"{' '.join(settings[first])}; delete one of them and run again"
            )
    fingerprints = {name: found[name]["data_fingerprint"] for name in WITHOUT_ADDED_IMAGES if name in found}
    if len(set(fingerprints.values())) > 1:
        raise ValueError(
            f"results/leaks: {', '.join(fingerprints)} were run on different data; delete all but those of one data set"
        )
    return found
