"""Whether a network was trained or selected on images that it would now be measured on: one rule for every caller.

The rule assumes that the name of a data set determines its images, and which of them are Training, PublicTest and
PrivateTest. FER2013's csv and Kaggle's JPEGs of it agree in both; so do two versions of one data set that differ in
size or in some rows. Only equal fingerprints mean the same images in the same order.

A network may have been initialised or distilled from others. Their trainings belong to its provenance, and the rule
applies to each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.protocols.split import Split, is_leaky
from fer_lightning.data.protocols.standard import kaggle, kfold, official, subset
from fer_lightning.labels import USAGES

_TRAINING, _PUBLIC, _PRIVATE = ({usage} for usage in USAGES)
_OFFICIAL: Final = (_TRAINING, _PUBLIC)

_SEEN: Final[Mapping[str, tuple[set[str], set[str]]]] = {
    **dict.fromkeys(("official", "subset", "fer_plus", "stored_copies"), _OFFICIAL),
    "kaggle": (_TRAINING, _TRAINING),
    "kfold": (_TRAINING | _PUBLIC, _TRAINING | _PUBLIC),
}
"""For each protocol, the usages of the images that it trains on and of those that it selects the epoch on."""

_REPRODUCIBLE: Final[Mapping[str, Callable[..., Split]]] = {
    "official": official,
    "subset": subset,
    "kaggle": kaggle,
    "kfold": kfold,
}
"""The protocols whose split is recreated to compare single images."""


@dataclass(frozen=True)
class Provenance:
    """The data and the protocol that a network was trained with.

    Attributes:
        data: Name of the data set.
        data_fingerprint: Fingerprint of the content of the data set.
        protocol: Name of the protocol, for example `kfold(fold=0 of 5)`.
        options: The protocol's options (conf/protocol); empty if only its name is known.
        votes_fingerprint: Fingerprint of the votes that its soft targets were made from; None if there were none.
        earlier: The trainings of the networks that it was initialised or distilled from; they have no `earlier`.
    """

    data: str
    data_fingerprint: str
    protocol: str
    options: Mapping[str, Any]
    votes_fingerprint: str | None = None
    earlier: tuple[Provenance, ...] = ()

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> Provenance | None:
        """Read the provenance in a checkpoint or a weights file; None (unknown) if it is missing or incomplete."""
        stored = stored or {}
        texts: list[Any] = [stored.get(key) for key in ("data", "data_fingerprint", "protocol")]
        listed = stored.get("earlier", [])
        if not all(isinstance(text, str) and text for text in texts) or not isinstance(listed, list):
            return None
        earlier = []
        for entry in listed:
            training = cls.read({**entry, "earlier": []}) if isinstance(entry, Mapping) else None
            if training is None:
                return None
            earlier.append(training)
        config, votes = stored.get("config"), stored.get("votes_fingerprint")
        options = config.get("protocol") if isinstance(config, Mapping) else None
        data, fingerprint, protocol = texts
        return cls(
            data=data,
            data_fingerprint=fingerprint,
            protocol=protocol,
            options=options if isinstance(options, Mapping) else {},
            votes_fingerprint=votes if isinstance(votes, str) else None,
            earlier=tuple(earlier),
        )

    def has_data(self, faces: FaceArrays) -> bool:
        """Whether the network was trained on this content; votes count if both make soft targets of them."""
        votes = {self.votes_fingerprint, faces.votes_fingerprint} - {None}
        return self.data_fingerprint == faces.fingerprint and len(votes) < 2

    def matches(self, faces: FaceArrays, split: Split) -> bool:
        """Whether the network was trained with exactly these images in these parts."""
        return (self.data_fingerprint, self.protocol) == (faces.fingerprint, split.name)

    def recreate_split(self, faces: FaceArrays) -> Split | None:
        """Recreate the split of the training from the same content; None if that is not possible."""
        protocol = _REPRODUCIBLE.get(_kind(self.protocol))
        if protocol is None or self.data_fingerprint != faces.fingerprint:
            return None
        try:
            split = protocol(faces, **{key: value for key, value in self.options.items() if key != "_target_"})
        except (TypeError, ValueError):  # options that were edited
            return None
        return split if split.name == self.protocol else None


def earlier_trainings(origins: Iterable[Provenance], faces: FaceArrays, split: Split) -> list[dict[str, Any]]:
    """Return the value of `earlier` in the stored provenance of a training.

    Args:
        origins: The provenance of each network that the training starts or distils from.
        faces: The data set of the training.
        split: Its parts; trainings on the same parts are omitted.
    """
    found = {
        (training.data, training.data_fingerprint, training.protocol): training
        for origin in origins
        for training in (*origin.earlier, origin)
        if not training.matches(faces, split)
    }
    return [
        {
            "data": training.data,
            "data_fingerprint": training.data_fingerprint,
            "protocol": training.protocol,
            "config": {"protocol": dict(training.options)},
        }
        for training in found.values()
    ]


def refusal(origin: Provenance, faces: FaceArrays, split: Split, part: str) -> str | None:
    """Return why a network must not be measured on a part; None if it was certainly not trained or selected on it.

    Measuring on val is refused if the network was trained on it; measuring on test also if it was selected on it. The
    train part is always allowed, as it measures nothing. A network of a leaky protocol is never measured.

    Args:
        origin: The provenance of the network.
        faces: The data set that it would be measured on.
        split: The parts of the data set.
        part: The part to measure.

    Returns:
        A clause whose subject is the network: `was trained on ..., which trains on 13 of the 20 images of val ...`.
    """
    if reason := _refusal_of_training(origin, faces, split, part):
        return reason
    for training in origin.earlier:
        if reason := _refusal_of_training(training, faces, split, part):
            return f"was initialised or distilled from a network that {reason}"
    return None


def refusal_to_train(origin: Provenance, faces: FaceArrays, split: Split) -> str | None:
    """Return why a training must not start or distil from a network, since it uses val and test; None if it may."""
    return refusal(origin, faces, split, "val") or refusal(origin, faces, split, "test")


def _refusal_of_training(origin: Provenance, faces: FaceArrays, split: Split, part: str) -> str | None:
    """`refusal` without the earlier trainings."""
    if is_leaky(origin.protocol):
        return f"was trained under {origin.protocol}, which leaks: it may have been trained on any image"
    if part == "train" or origin.matches(faces, split):
        return None
    same_content = origin.data_fingerprint == faces.fingerprint
    if not (same_content or _same_images(origin.data, faces.name)):
        return None
    measured = split.indices[part]
    trained_on, selected_on = _SEEN.get(_kind(origin.protocol), (set(USAGES), set(USAGES)))
    if not (trained_on if part == "val" else trained_on | selected_on) & set(faces.usage[measured].tolist()):
        return None
    if earlier := origin.recreate_split(faces):
        for used, verb in (("train", "trains"), ("val", "selects"))[: 1 if part == "val" else 2]:
            if overlap := np.intersect1d(earlier.indices[used], measured).size:
                return (
                    f"was trained on {origin.data} under {origin.protocol}, which {verb} on {overlap:,} of the "
                    f"{len(measured):,} images of {part} under {split.name}"
                )
        return None
    version = "" if same_content or origin.data != faces.name else "another version of "
    return (
        f"was trained on {version}{origin.data} under {origin.protocol}: it may have been trained or selected on "
        f"images of {part} of {faces.name} under {split.name}"
    )


def _kind(protocol: str) -> str:
    """Return a protocol's name without options: `kfold` of `kfold(fold=0 of 5)`."""
    return protocol.partition("(")[0]


def _same_images(data: str, other: str) -> bool:
    """Whether two data sets hold the same images, as FER2013's csv and Kaggle's JPEGs of it do."""
    return data == other or {data, other} == {"fer2013", "fer2013_kaggle"}
