"""Whether a network was trained or selected on images that it would now be measured on: one rule for every caller.

The rule rests on what the name of a data set stands for: its images, and which of them are Training, PublicTest and
PrivateTest. FER2013's csv and Kaggle's JPEGs of it have both in common; so have two states of one data set that differ
in size or by some rows. Only equal fingerprints mean the same images in the same order.

A network may itself have been started from another, or taught by one, of which its own provenance tells nothing. Where
that one passed this rule for the val and the test part, it has seen no image of the data set that the provenance of the
later training does not cover.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.protocols.split import Split, is_leaky
from fer_lightning.data.protocols.standard import kaggle, kfold, official
from fer_lightning.labels import USAGES

_TRAINING, _PUBLIC, _PRIVATE = ({usage} for usage in USAGES)
_OFFICIAL: Final = (_TRAINING, _PUBLIC)

_SEEN: Final[Mapping[str, tuple[set[str], set[str]]]] = {
    **dict.fromkeys(("official", "subset", "fer_plus", "stored_copies"), _OFFICIAL),
    "kaggle": (_TRAINING, _TRAINING),
    "kfold": (_TRAINING | _PUBLIC, _TRAINING | _PUBLIC),
}
"""The usages of the images that a protocol trains on, and of those that it selects the epoch on."""

_REPEATABLE: Final[Mapping[str, Callable[..., Split]]] = {"official": official, "kaggle": kaggle, "kfold": kfold}
"""The protocols whose split is drawn again to compare single images. Not `subset`: the network may have been started
from one that was trained on more of the same usage."""


@dataclass(frozen=True)
class Provenance:
    """The data and the protocol that a network was trained with.

    Attributes:
        data: Name of the data set.
        data_fingerprint: Fingerprint of its content.
        protocol: Name of the protocol, for example `kfold(fold=0 of 5)`.
        options: The protocol's options (conf/protocol); empty where only its name is known.
    """

    data: str
    data_fingerprint: str
    protocol: str
    options: Mapping[str, Any]

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> Provenance | None:
        """The provenance in a checkpoint or a weights file; None where it is missing or incomplete: unknown."""
        stored = stored or {}
        data, fingerprint, protocol = (stored.get(key) for key in ("data", "data_fingerprint", "protocol"))
        if not (data and fingerprint and protocol):
            return None
        config = stored.get("config")
        options = config.get("protocol") if isinstance(config, Mapping) else None
        return cls(data, fingerprint, protocol, options if isinstance(options, Mapping) else {})

    def is_of(self, faces: FaceArrays, split: Split) -> bool:
        """Whether the network was trained with exactly these images in these parts."""
        return (self.data_fingerprint, self.protocol) == (faces.fingerprint, split.name)

    def split_of(self, faces: FaceArrays) -> Split | None:
        """The split that it was trained with, where it can be drawn again from the same content."""
        draw = _REPEATABLE.get(_kind(self.protocol))
        if draw is None or self.data_fingerprint != faces.fingerprint:
            return None
        try:
            split = draw(faces, **{key: value for key, value in self.options.items() if key != "_target_"})
        except (TypeError, ValueError):  # options that somebody changed
            return None
        return split if split.name == self.protocol else None


def refusal(origin: Provenance, faces: FaceArrays, split: Split, part: str) -> str | None:
    """The reason why a network must not be measured on a part; None where it has certainly not seen its images.

    Measuring on val, which selects, is refused where the network was trained on it; measuring on test also where it
    was selected on it. The train part is none that measures. A network of a leaky protocol is never measured.

    Args:
        origin: The provenance of the network.
        faces: The data set that it would be measured on.
        split: Its parts.
        part: One of them.

    Returns:
        A clause whose subject is the network: `was trained on ... and has learnt 13 of the 20 images of val ...`.
    """
    if is_leaky(origin.protocol):
        return f"was trained under {origin.protocol}, which leaks: it may have learnt any image"
    if part == "train" or origin.is_of(faces, split):
        return None
    same_content = origin.data_fingerprint == faces.fingerprint
    if not (same_content or _same_images(origin.data, faces.name)):
        return None
    measured = split.indices[part]
    learnt, selected = _SEEN.get(_kind(origin.protocol), (set(USAGES), set(USAGES)))
    if not (learnt if part == "val" else learnt | selected) & set(faces.usage[measured].tolist()):
        return None
    if before := origin.split_of(faces):
        for used, how in (("train", "has learnt"), ("val", "was selected on"))[: 1 if part == "val" else 2]:
            if seen := np.intersect1d(before.indices[used], measured).size:
                return (
                    f"was trained on {origin.data} under {origin.protocol} and {how} {seen:,} of the "
                    f"{len(measured):,} images of {part} under {split.name}"
                )
        return None
    state = "" if same_content or origin.data != faces.name else "another state of "
    return (
        f"was trained on {state}{origin.data} under {origin.protocol}: it may have learnt images of {part} of "
        f"{faces.name} under {split.name}"
    )


def refusal_to_train(origin: Provenance, faces: FaceArrays, split: Split) -> str | None:
    """The reason why no training must begin with a network or learn from it: it selects on val and measures test."""
    return refusal(origin, faces, split, "val") or refusal(origin, faces, split, "test")


def _kind(protocol: str) -> str:
    """`kfold` of `kfold(fold=0 of 5)`."""
    return protocol.partition("(")[0]


def _same_images(data: str, other: str) -> bool:
    """Whether two names of data sets stand for the same images, as FER2013's csv and Kaggle's JPEGs of it do."""
    return data == other or {data, other} == {"fer2013", "fer2013_kaggle"}
