"""The truth table of what a network may be measured on, against the images that real splits hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

from fer_lightning.data.arrays import FaceArrays, content_fingerprint
from fer_lightning.data.protocols.fer_plus import fer_plus
from fer_lightning.data.protocols.leaky import leaky_augmented, leaky_pooled, leaky_selected, stored_copies
from fer_lightning.data.protocols.split import Split
from fer_lightning.data.protocols.standard import kaggle, kfold, official, subset
from fer_lightning.data.provenance import Provenance, refusal
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
"""The rows of each table: what the network was trained under. The columns are the same: what it is measured under."""

SAME_NAME = {  # another state of the data set, or the other form of FER2013: usages are known, single images are not
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
SAME_CONTENT = {  # which differs by one thing: a network of kaggle or kfold is measured on its own validation part
    "val": """
        . . . . x x x x . x
        . . . . x x x x . x
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
def data(name: str = "fer2013", *, other_state: bool = False, seed: int = 0) -> FaceArrays:
    """Faces that no two are alike; the names of the same image are the same in every state and form of a data set."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (COUNT, 4, 4), np.uint8)
    labels = np.arange(COUNT) % 3
    usage = np.repeat(USAGES, (COUNT * 6 // 10, COUNT * 2 // 10, COUNT * 2 // 10))
    names = np.array([f"{seed} row {row}" for row in range(COUNT)], np.bytes_)
    votes = np.zeros((COUNT, 10), np.float32)
    votes[np.arange(COUNT), labels] = 10
    votes[::7] = 1  # which FER+ drops
    order = random.permutation(COUNT)[20:] if other_state else np.arange(COUNT)
    images, labels, usage = images[order], labels[order], usage[order]
    fingerprint = content_fingerprint(images, labels, usage, ("a", "b", "c"))
    return FaceArrays(images, labels, usage, ("a", "b", "c"), name, fingerprint, names[order], votes[order])


@cache
def split(protocol: str, faces: Callable[[], FaceArrays]) -> tuple[FaceArrays, Split]:
    draw, options = PROTOCOLS[protocol]
    drawn = draw(faces(), **options)
    return drawn.faces or faces(), drawn


def read(stored: dict[str, Any]) -> Provenance:
    origin = Provenance.read(stored)
    assert origin is not None
    return origin


def trained(protocol: str, faces: Callable[[], FaceArrays]) -> Provenance:
    """The provenance of a network, as in its checkpoint."""
    used, drawn = split(protocol, faces)
    options = {"_target_": "where it lies", **PROTOCOLS[protocol][1]}
    stored = {"data": used.name, "data_fingerprint": used.fingerprint, "protocol": drawn.name}
    return read(stored | {"config": {"protocol": options}})


def images(faces: FaceArrays, drawn: Split, *parts: str) -> set[bytes]:
    """The names of the images in some parts; a stored copy has that of its original."""
    return {name.split(b",")[0] for part in parts for name in faces.names[drawn.indices[part]].tolist()}


def has_seen(then: tuple[FaceArrays, Split], now: tuple[FaceArrays, Split], part: str) -> bool:
    """Whether a network was trained or, for test, selected on images of a part: looked up, not inferred."""
    used = ["train"] if part == "val" else ["train", "val"]
    return bool(images(*then, *used) & images(*now, part))


CSV, OTHER_STATE = data, partial(data, other_state=True)
JPEGS = partial(data, "fer2013_kaggle", other_state=True)
OWN, OWN_OTHER_STATE = partial(data, "own"), partial(data, "own", other_state=True)
OTHER = partial(data, "RAF-DB", seed=1)


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize(
    ("then", "now", "table"),
    [
        pytest.param(CSV, CSV, SAME_CONTENT, id="same_content"),
        pytest.param(CSV, OTHER_STATE, SAME_NAME, id="other_state"),
        pytest.param(OWN, OWN_OTHER_STATE, SAME_NAME, id="other_state_of_an_own_set"),
        pytest.param(CSV, JPEGS, SAME_NAME, id="csv_then_jpegs"),
        pytest.param(JPEGS, CSV, SAME_NAME, id="jpegs_then_csv"),
        pytest.param(OTHER, CSV, OTHER_IMAGES, id="other_data_set"),
    ],
)
def test_the_truth_table(
    then: Callable[[], FaceArrays], now: Callable[[], FaceArrays], table: dict[str, str], part: str
) -> None:
    found = []
    for origin in ORIGINS:
        reasons = {name: refusal(trained(origin, then), *split(name, now), part) for name in PROTOCOLS}
        found.append(" ".join("x" if reason else "." for reason in reasons.values()))
        for name, reason in reasons.items():
            seen = has_seen(split(origin, then), split(name, now), part)
            assert reason or not seen, f"{origin} then {name}: measured on what it has seen"
            if then is now and origin not in ("subset", "leaky_pooled", "leaky_selected", "leaky_augmented"):
                assert seen or not reason, f"{origin} then {name}: {reason}"
    assert found == [" ".join(row.split()) for row in table[part].strip().splitlines()]


def test_single_images_are_compared_where_the_split_can_be_drawn_again() -> None:
    faces = data()
    stored = {"data": "fer2013", "data_fingerprint": faces.fingerprint, "protocol": "kaggle(val_fraction=0.5)"}
    within, around = kaggle(faces, 0.25), kaggle(faces, 0.75)
    known = read(stored | {"config": {"protocol": {"_target_": "where it lies", "val_fraction": 0.5, "seed": 0}}})
    assert refusal(known, faces, within, "val") is None
    seen = len(np.intersect1d(around.indices["val"], kaggle(faces, 0.5).indices["train"]))
    counted = f"has learnt {seen} of the {len(around.indices['val'])} images of val under kaggle"
    assert counted in str(refusal(known, faces, around, "val"))
    assert refusal(read(stored), faces, within, "val") is not None  # a weights file keeps the protocol's name alone
    for spoilt in ({"val_fraction": "x"}, {"val_fraction": 0.25}, {"more": 1}):
        assert refusal(read(stored | {"config": {"protocol": spoilt}}), faces, within, "val") is not None, spoilt


def test_a_subset_counts_as_all_of_its_usage() -> None:
    """The network may have been started from one that was trained on more of it."""
    faces = data()
    training = np.setdiff1d(np.flatnonzero(faces.usage == "Training"), split("subset", CSV)[1].indices["train"])
    unseen = Split("kaggle(val_fraction=0.1)", {"val": training[:5]})
    assert refusal(trained("subset", CSV), faces, unseen, "val") is not None


def test_a_part_counts_by_the_images_in_it() -> None:
    """Under kaggle test is PublicTest and PrivateTest, of which many data sets have only one."""
    faces = replace(data("own"), usage=np.where(data().usage == "PublicTest", "Training", data().usage))
    folded = trained("kfold_0", OWN)
    assert refusal(folded, replace(faces, fingerprint="0" * 64), kaggle(faces), "test") is None
    assert refusal(folded, data("own"), kaggle(data("own")), "test") is not None


def test_the_train_part_is_no_measurement() -> None:
    assert refusal(trained("official", CSV), *split("kfold_0", OTHER_STATE), "train") is None


def test_a_protocol_that_is_not_known_may_have_used_every_image() -> None:
    known = trained("official", CSV)
    assert refusal(replace(known, protocol="mine"), *split("official", CSV), "test") is not None


@pytest.mark.parametrize(
    "stored",
    [
        None,
        {},
        {"format": "pt"},
        {"data": "fer2013", "protocol": "official"},
        {"data": "fer2013", "protocol": "official", "data_fingerprint": ""},
    ],
)
def test_what_does_not_name_its_data_and_protocol_is_unknown(stored: dict[str, str] | None) -> None:
    assert Provenance.read(stored) is None
