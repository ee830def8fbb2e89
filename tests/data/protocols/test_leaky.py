"""Leaky protocols: each leaks what its name says, and nothing else differs from the official one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fer_lightning.data.arrays import FaceArrays, content_fingerprint
from fer_lightning.data.protocols.leaky import (
    leaky_all,
    leaky_augmented,
    leaky_oversampled,
    leaky_pooled,
    leaky_selected,
    stored_copies,
)
from fer_lightning.data.protocols.standard import official
from fer_lightning.data.sources.synthetic import draw_faces

LEAKY = [leaky_pooled, leaky_oversampled, leaky_augmented, leaky_selected, leaky_all]


@pytest.fixture(scope="module")
def faces() -> FaceArrays:
    return draw_faces(300, image_size=24)


def original(faces: FaceArrays, position: int) -> int:
    """The picture that a stored one was made of."""
    return faces.names.tolist().index(faces.names[position].split(b",")[0])


@pytest.mark.parametrize("protocol", LEAKY, ids=lambda value: value.__name__)
def test_the_name_says_it_and_the_parts_have_the_official_sizes(protocol, faces):
    split, honest = protocol(faces), official(faces)
    assert split.name.startswith(protocol.__name__)
    assert split.is_leaky
    assert not honest.is_leaky
    for part in ("val", "test"):
        assert len(split.indices[part]) == len(honest.indices["test" if protocol in LEAKY[3:] else part])
    grown = split.faces or faces
    expected = len(honest.indices["train"]) * len(grown) // len(faces)
    assert abs(len(split.indices["train"]) - expected) <= 1
    for indices in split.indices.values():
        assert (np.diff(indices) > 0).all()
    shared = np.intersect1d(split.indices["train"], split.indices["test"])
    assert len(shared) == 0  # a leak through copies, never through one and the same row


@pytest.mark.parametrize("protocol", [*LEAKY[:3], leaky_all, stored_copies], ids=lambda value: value.__name__)
def test_a_seed_draws_another_split_which_repeats(protocol, faces):
    first, again, other = protocol(faces), protocol(faces), protocol(faces, seed=2)
    assert "seed=2" in other.name
    assert again.name == first.name
    assert np.array_equal(again.indices["train"], first.indices["train"])
    assert again.faces.fingerprint == first.faces.fingerprint
    assert first.faces.fingerprint != other.faces.fingerprint or not np.array_equal(
        other.indices["train"], first.indices["train"]
    )


def test_selected_chooses_on_what_it_measures(faces):
    split, honest = leaky_selected(faces), official(faces)
    assert split.indices["val"] is split.indices["test"]
    for part in ("train", "test", "test_deduplicated"):
        assert np.array_equal(split.indices[part], honest.indices[part])


def test_pooled_draws_from_all_official_parts(faces):
    split = leaky_pooled(faces)
    assert set(faces.usage[split.indices["test"]]) == set(faces.usage)
    assert sorted(np.concatenate([split.indices[p] for p in ("train", "val", "test")])) == list(range(len(faces)))


def test_oversampled_pool_is_balanced_by_exact_copies_that_are_tested_on(faces):
    split = leaky_oversampled(faces)
    grown = split.faces
    counts = np.bincount(grown.labels)
    assert set(counts) == {np.bincount(faces.labels).max()}
    for position in range(len(faces), len(grown)):
        source = original(grown, position)
        assert np.array_equal(grown.images[position], faces.images[source])
        assert grown.labels[position] == faces.labels[source]
    assert len(split.indices["test_deduplicated"]) < 0.7 * len(split.indices["test"])


def test_augmented_trains_on_changed_copies_of_what_it_tests(faces):
    split = leaky_augmented(faces, copies=3)
    grown = split.faces
    assert split.name == "leaky_augmented(copies=3)"
    assert len(grown) == 4 * len(faces)
    assert np.array_equal(grown.images[: len(faces)], faces.images)
    trained = {original(grown, i) for i in split.indices["train"]}
    related = [original(grown, i) in trained for i in split.indices["test"]]
    assert np.mean(related) > 0.95
    exact = len(split.indices["test_deduplicated"]) / len(split.indices["test"])
    assert exact > 0.8  # exact copies alone do not show this leak


def test_all_fills_up_changes_and_chooses_on_the_test_part(faces):
    split = leaky_all(faces, copies=1)
    grown, filled = split.faces, leaky_oversampled(faces).faces
    assert split.name == "leaky_all(copies=1)"
    assert len(grown) == 2 * len(filled)
    assert len(set(np.bincount(grown.labels))) == 1
    assert np.array_equal(grown.images[: len(filled)], filled.images)
    assert split.indices["val"] is split.indices["test"]
    trained = {original(grown, i) for i in split.indices["train"]}
    assert np.mean([original(grown, i) in trained for i in split.indices["test"]]) > 0.8


def test_changed_copies_look_like_their_picture_and_are_labelled_as_it(faces):
    grown = leaky_augmented(faces, copies=2).faces
    for position in range(len(faces), len(grown)):
        source = original(grown, position)
        assert grown.labels[position] == faces.labels[source]
        assert grown.usage[position] == faces.usage[source]
        assert np.array_equal(grown.votes[position], faces.votes[source])
    copy = grown.images[len(faces) : 2 * len(faces)].astype(float)
    picture = faces.images.astype(float)
    near = np.minimum(np.abs(copy - picture).mean((1, 2)), np.abs(copy - picture[:, :, ::-1]).mean((1, 2)))
    other = np.abs(copy - np.roll(picture, 1, axis=0)).mean((1, 2))
    assert np.median(near) < 0.5 * np.median(other)
    assert not np.array_equal(copy, picture)


def test_stored_copies_touch_training_alone(faces):
    split, honest = stored_copies(faces), official(faces)
    assert split.name == "stored_copies(copies=2)"
    assert not split.is_leaky
    assert len(split.indices["train"]) == 3 * len(honest.indices["train"])
    for part in ("val", "test"):
        assert np.array_equal(split.indices[part], honest.indices[part])
    assert set(split.faces.usage[len(faces) :]) == {"Training"}


def test_colour_pictures_are_copied_in_colour(faces):
    colour = dataclasses.replace(faces, images=np.stack([faces.images, faces.images // 2, faces.images // 4], axis=3))
    grown = stored_copies(colour, copies=1).faces
    assert grown.images.shape == (len(faces) + np.sum(faces.usage == "Training"), 24, 24, 3)
    red, _, blue = grown.images[len(faces) :].astype(int).transpose(3, 0, 1, 2)
    assert red.mean() > 3 * blue.mean()


def test_the_fingerprint_is_that_of_the_stored_content(faces):
    grown = leaky_oversampled(faces).faces
    assert grown.fingerprint == content_fingerprint(grown.images, grown.labels, grown.usage, grown.classes)


@pytest.mark.parametrize("protocol", [leaky_augmented, leaky_all, stored_copies])
def test_wrong_copies_are_named(protocol, faces):
    with pytest.raises(ValueError, match=r"protocol\.copies must be 1 or more, got 0"):
        protocol(faces, copies=0)


def test_thousands_of_copies_are_made_of_their_own_pictures() -> None:
    shades = np.arange(7000) % 250
    few = draw_faces(70, image_size=24)
    images = np.broadcast_to(shades.astype(np.uint8)[:, None, None], (7000, 8, 8)).copy()
    repeated = np.arange(7000) % 70
    columns = {name: getattr(few, name)[repeated] for name in ("labels", "usage")}
    names = np.array([f"row {row}".encode() for row in range(7000)])
    many = dataclasses.replace(few, images=images, names=names, votes=None, **columns)
    grown = stored_copies(many, copies=1).faces
    assert grown is not None
    copies = np.arange(7000, len(grown))
    centres = grown.images[copies, 4, 4].astype(float)  # a flat picture stays flat but for its light and its border
    sources = np.array([original(grown, position) for position in copies])
    assert np.corrcoef(centres, shades[sources])[0, 1] > 0.95
