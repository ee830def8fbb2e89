"""The truth table of what a network may be measured on, compared with the images of real splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from helpers.faces import face_arrays

from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.protocols.fer_plus import fer_plus
from fer_lightning.data.protocols.leaky import leaky_augmented, leaky_pooled, leaky_selected, stored_copies
from fer_lightning.data.protocols.split import Split
from fer_lightning.data.protocols.standard import kaggle, kfold, official, subset
from fer_lightning.data.provenance import Provenance, earlier_trainings, refusal
from fer_lightning.labels import USAGES

PROTOCOLS: dict[str, tuple[Callable[..., Split], dict[str, Any]]] = {
    "official": (official, {}),
    "subset": (subset, {"fraction": 0.5}),
    "fer_plus": (fer_plus, {}),
    "stored_copies": (stored_copies, {}),
    "kaggle": (kaggle, {}),
    "kfold_0": (kfold, {"fold": 0}),
    "kfold_1": (kfold, {"fold": 1}),
    "leaky_pooled": (leaky_pooled, {}),
    "leaky_selected": (leaky_selected, {}),
    "leaky_augmented": (leaky_augmented, {}),
}

ORIGINS = tuple(PROTOCOLS)
"""The protocols of the training, the rows of each table; the columns are the same protocols for the measurement."""

SAME_NAME = {  # another version of the data set, or the other format of FER2013; only usages are known
    "val": """
        . . . . x x x x . x
        . . . . x x x x . x
        . . . . x x x x . x
        . . . . x x x x . x
        . . . . x x x x . x
        x x x x x x x x . x
        x x x x x x x x . x
        x x x x x x x x x x
        x x x x x x x x x x
        x x x x x x x x x x""",
    "test": """
        . . . . x . . x . x
        . . . . x . . x . x
        . . . . x . . x . x
        . . . . x . . x . x
        . . . . . . . x . x
        . . . . x . . x . x
        . . . . x . . x . x
        x x x x x x x x x x
        x x x x x x x x x x
        x x x x x x x x x x""",
}
SAME_CONTENT = {  # a network of kaggle or kfold is measured on its own validation part, one of subset on kaggle's
    "val": """
        . . . . x x x x . x
        . . . . . x x x . x
        . . . . x x x x . x
        . . . . x x x x . x
        . . . . . x x x . x
        x x x x x . x x . x
        x x x x x x . x . x
        x x x x x x x x x x
        x x x x x x x x x x
        x x x x x x x x x x""",
    "test": SAME_NAME["test"],
}
OTHER_IMAGES = dict.fromkeys(("val", "test"), "\n".join([". " * 10] * 7 + ["x " * 10] * 3))

COUNT = 400


@cache
def data(name: str = "fer2013", *, other_version: bool = False, seed: int = 0) -> FaceArrays:
    """Returns distinct random faces; an image has the same name in every version and format of a data set."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (COUNT, 4, 4), np.uint8)
    labels = np.arange(COUNT) % 3
    usage = np.repeat(USAGES, (COUNT * 6 // 10, COUNT * 2 // 10, COUNT * 2 // 10))
    names = np.array([f"{seed} row {row}" for row in range(COUNT)], np.bytes_)
    votes = np.zeros((COUNT, 10), np.float32)
    votes[np.arange(COUNT), labels] = 10
    votes[::7] = 1  # FER+ drops these
    order = random.permutation(COUNT)[20:] if other_version else np.arange(COUNT)
    return face_arrays(
        images[order], labels[order], usage[order], classes="abc", name=name, names=names[order], votes=votes[order]
    )


@cache
def split(protocol: str, faces: Callable[[], FaceArrays]) -> tuple[FaceArrays, Split]:
    make_split, options = PROTOCOLS[protocol]
    result = make_split(faces(), **options)
    return result.faces or faces(), result


def read(stored: dict[str, Any]) -> Provenance:
    origin = Provenance.read(stored)
    assert origin is not None
    return origin


def provenance(protocol: str, faces: Callable[[], FaceArrays]) -> Provenance:
    """Returns the provenance of a network as its checkpoint stores it."""
    used, parts = split(protocol, faces)
    options = {"_target_": "its.path", **PROTOCOLS[protocol][1]}
    stored = {"data": used.name, "data_fingerprint": used.fingerprint, "protocol": parts.name}
    return read(stored | {"config": {"protocol": options}})


def fine_tuned(origin: Provenance) -> Provenance:
    """Returns the provenance of a network that was initialised with that one and trained on unrelated images."""
    used, parts = split("official", UNRELATED)
    stored = {"data": used.name, "data_fingerprint": used.fingerprint, "protocol": parts.name}
    return read(stored | {"earlier": earlier_trainings([origin], used, parts)})


def images(faces: FaceArrays, split: Split, *parts: str) -> set[bytes]:
    """Returns the names of the images in some parts; a stored copy has the name of its original."""
    return {name.split(b",")[0] for part in parts for name in faces.names[split.indices[part]].tolist()}


def has_used(trained_on: tuple[FaceArrays, Split], measured_on: tuple[FaceArrays, Split], part: str) -> bool:
    """Whether a network was trained or, for test, selected on images of a part, by comparing the images themselves."""
    used = ["train"] if part == "val" else ["train", "val"]
    return bool(images(*trained_on, *used) & images(*measured_on, part))


CSV, OTHER_VERSION = data, partial(data, other_version=True)
JPEGS = partial(data, "fer2013_kaggle", other_version=True)
OWN, OWN_OTHER_VERSION = partial(data, "own"), partial(data, "own", other_version=True)
OTHER = partial(data, "RAF-DB", seed=1)
UNRELATED = partial(data, "unrelated", seed=2)


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize(
    ("trained_on", "measured_on", "table"),
    [
        pytest.param(CSV, CSV, SAME_CONTENT, id="same_content"),
        pytest.param(CSV, OTHER_VERSION, SAME_NAME, id="other_version"),
        pytest.param(OWN, OWN_OTHER_VERSION, SAME_NAME, id="other_version_of_a_custom_data_set"),
        pytest.param(CSV, JPEGS, SAME_NAME, id="csv_then_jpegs"),
        pytest.param(JPEGS, CSV, SAME_NAME, id="jpegs_then_csv"),
        pytest.param(OTHER, CSV, OTHER_IMAGES, id="other_data_set"),
    ],
)
def test_the_truth_table(
    trained_on: Callable[[], FaceArrays], measured_on: Callable[[], FaceArrays], table: dict[str, str], part: str
) -> None:
    found = []
    for origin in ORIGINS:
        reasons = {name: refusal(provenance(origin, trained_on), *split(name, measured_on), part) for name in PROTOCOLS}
        found.append(" ".join("x" if reason else "." for reason in reasons.values()))
        later = fine_tuned(provenance(origin, trained_on))
        again = {name: refusal(later, *split(name, measured_on), part) for name in PROTOCOLS}
        beginning = "was initialised or distilled from a network that "
        assert again == {name: reason and beginning + reason for name, reason in reasons.items()}
        for name, reason in reasons.items():
            used = has_used(split(origin, trained_on), split(name, measured_on), part)
            assert reason or not used, f"{origin} then {name}: measured on images of its training"
            if trained_on is measured_on and not origin.startswith("leaky_"):
                assert used or not reason, f"{origin} then {name}: {reason}"
    assert found == [" ".join(row.split()) for row in table[part].strip().splitlines()]


def test_single_images_are_compared_if_the_split_can_be_recreated() -> None:
    faces = data()
    stored = {"data": "fer2013", "data_fingerprint": faces.fingerprint, "protocol": "kaggle(val_fraction=0.5)"}
    smaller, larger = kaggle(faces, 0.25), kaggle(faces, 0.75)
    known = read(stored | {"config": {"protocol": {"_target_": "its.path", "val_fraction": 0.5, "seed": 0}}})
    assert refusal(known, faces, smaller, "val") is None
    overlap = len(np.intersect1d(larger.indices["val"], kaggle(faces, 0.5).indices["train"]))
    counted = f"which trains on {overlap} of the {len(larger.indices['val'])} images of val under kaggle"
    assert counted in str(refusal(known, faces, larger, "val"))
    assert refusal(read(stored), faces, smaller, "val") is not None  # a weights file stores only the protocol's name
    for invalid in ({"val_fraction": "x"}, {"val_fraction": 0.25}, {"more": 1}):
        assert refusal(read(stored | {"config": {"protocol": invalid}}), faces, smaller, "val") is not None, invalid


def test_a_subset_does_not_hide_what_its_weights_have_seen() -> None:
    faces, part = split("subset", CSV)
    training = np.setdiff1d(np.flatnonzero(faces.usage == "Training"), part.indices["train"])
    unseen = Split("kaggle(val_fraction=0.1)", {"val": training[:5]})
    alone = provenance("subset", CSV)
    assert refusal(alone, faces, unseen, "val") is None
    initialised = replace(alone, earlier=(provenance("official", CSV),))
    assert refusal(initialised, faces, unseen, "val") == (
        "was initialised or distilled from a network that was trained on fer2013 under official, which trains on 5 of "
        "the 5 images of val under kaggle(val_fraction=0.1)"
    )


def test_earlier_trainings_are_a_flat_list_without_the_training_itself() -> None:
    faces, parts = split("official", CSV)
    first, second = provenance("kfold_0", OTHER), provenance("official", UNRELATED)
    origin = replace(second, earlier=(first,))
    stored = earlier_trainings([origin, origin, provenance("official", CSV)], faces, parts)
    own = {"data": faces.name, "data_fingerprint": faces.fingerprint, "protocol": parts.name}
    assert read(own | {"earlier": stored}).earlier == (first, second)


def test_a_part_is_compared_by_its_images() -> None:
    """Under kaggle, test is PublicTest and PrivateTest; many data sets have only one of them."""
    faces = replace(data("own"), usage=np.where(data().usage == "PublicTest", "Training", data().usage))
    folded = provenance("kfold_0", OWN)
    assert refusal(folded, replace(faces, fingerprint="0" * 64), kaggle(faces), "test") is None
    assert refusal(folded, data("own"), kaggle(data("own")), "test") is not None


def test_the_train_part_is_always_allowed() -> None:
    assert refusal(provenance("official", CSV), *split("kfold_0", OTHER_VERSION), "train") is None


def test_an_unknown_protocol_may_have_used_every_image() -> None:
    known = provenance("official", CSV)
    assert refusal(replace(known, protocol="mine"), *split("official", CSV), "test") is not None


def test_votes_belong_to_the_data_if_targets_are_made_from_them() -> None:
    """Under `soft`, moving one vote from the second emotion to a third changes targets, but no label."""
    faces = replace(data(), votes=np.tile(np.float32([6, 4, 0, 0, 0, 0, 0, 0, 0, 0]), (COUNT, 1)))
    votes = np.tile(np.float32([6, 0, 4, 0, 0, 0, 0, 0, 0, 0]), (COUNT, 1))
    one, other = (fer_plus(f, rule="soft").faces for f in (faces, replace(faces, votes=votes)))
    assert one is not None
    assert other is not None
    assert one.fingerprint == other.fingerprint
    stored = {"data": one.name, "data_fingerprint": one.fingerprint, "protocol": "fer_plus(soft)"}
    known = read(stored | {"votes_fingerprint": one.votes_fingerprint})
    assert (known.has_data(one), known.has_data(other)) == (True, False)
    assert (read(stored).has_data(one), read(stored).has_data(other)) == (True, True)  # its votes are not known
    assert faces.votes_fingerprint is None  # votes that are not used
    majority = fer_plus(faces).faces
    assert majority is not None
    assert majority.votes_fingerprint is None  # they determine labels only


@pytest.mark.parametrize(
    "stored",
    [
        None,
        {},
        {"format": "pt"},
        {"data": "fer2013", "protocol": "official"},
        {"data": "fer2013", "protocol": "official", "data_fingerprint": ""},
        {"data": "fer2013", "protocol": 1, "data_fingerprint": "0"},
        {"data": "fer2013", "protocol": "official", "data_fingerprint": "0", "earlier": [{"data": "fer2013"}]},
        {"data": "fer2013", "protocol": "official", "data_fingerprint": "0", "earlier": "fer2013"},
    ],
)
def test_a_provenance_without_data_or_protocol_is_unknown(stored: dict[str, str] | None) -> None:
    assert Provenance.read(stored) is None
