"""Leaky protocols: each has only the leak of its name and is otherwise like the official protocol."""

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
    """The position of the image from which a stored copy was made."""
    return faces.names.tolist().index(faces.names[position].split(b",")[0])


@pytest.mark.parametrize("protocol", LEAKY, ids=lambda value: value.__name__)
def test_names_are_leaky_and_parts_have_the_official_sizes(protocol, faces):
    split, baseline = protocol(faces), official(faces)
    assert split.name.startswith(protocol.__name__)
    assert split.is_leaky
    assert not baseline.is_leaky
    for part in ("val", "test"):
        assert len(split.indices[part]) == len(baseline.indices["test" if protocol in LEAKY[3:] else part])
    enlarged = split.faces or faces
    expected = len(baseline.indices["train"]) * len(enlarged) // len(faces)
    assert abs(len(split.indices["train"]) - expected) <= 1
    for indices in split.indices.values():
        assert (np.diff(indices) > 0).all()
    shared = np.intersect1d(split.indices["train"], split.indices["test"])
    assert len(shared) == 0  # leaks are copies, never the same row


@pytest.mark.parametrize("protocol", [*LEAKY[:3], leaky_all, stored_copies], ids=lambda value: value.__name__)
def test_another_seed_gives_another_reproducible_split(protocol, faces):
    first, again, other = protocol(faces), protocol(faces), protocol(faces, seed=2)
    assert "seed=2" in other.name
    assert again.name == first.name
    assert np.array_equal(again.indices["train"], first.indices["train"])
    assert again.faces.fingerprint == first.faces.fingerprint
    assert first.faces.fingerprint != other.faces.fingerprint or not np.array_equal(
        other.indices["train"], first.indices["train"]
    )


def test_selected_validates_on_the_test_part(faces):
    split, baseline = leaky_selected(faces), official(faces)
    assert split.indices["val"] is split.indices["test"]
    for part in ("train", "test", "test_deduplicated"):
        assert np.array_equal(split.indices[part], baseline.indices[part])


def test_pooled_samples_all_official_parts(faces):
    split = leaky_pooled(faces)
    assert set(faces.usage[split.indices["test"]]) == set(faces.usage)
    assert sorted(np.concatenate([split.indices[p] for p in ("train", "val", "test")])) == list(range(len(faces)))


def test_oversampled_balances_classes_with_copies_in_the_test_part(faces):
    split = leaky_oversampled(faces)
    enlarged = split.faces
    counts = np.bincount(enlarged.labels)
    assert set(counts) == {np.bincount(faces.labels).max()}
    for position in range(len(faces), len(enlarged)):
        source = original(enlarged, position)
        assert np.array_equal(enlarged.images[position], faces.images[source])
        assert enlarged.labels[position] == faces.labels[source]
    assert len(split.indices["test_deduplicated"]) < 0.7 * len(split.indices["test"])


def test_augmented_trains_on_modified_copies_of_test_images(faces):
    split = leaky_augmented(faces, copies=3)
    enlarged = split.faces
    assert split.name == "leaky_augmented(copies=3)"
    assert len(enlarged) == 4 * len(faces)
    assert np.array_equal(enlarged.images[: len(faces)], faces.images)
    train_sources = {original(enlarged, i) for i in split.indices["train"]}
    related = [original(enlarged, i) in train_sources for i in split.indices["test"]]
    assert np.mean(related) > 0.95
    exact = len(split.indices["test_deduplicated"]) / len(split.indices["test"])
    assert exact > 0.8  # removing exact copies does not remove this leak


def test_all_oversamples_augments_and_validates_on_the_test_part(faces):
    split = leaky_all(faces, copies=1)
    enlarged, balanced = split.faces, leaky_oversampled(faces).faces
    assert split.name == "leaky_all(copies=1)"
    assert len(enlarged) == 2 * len(balanced)
    assert len(set(np.bincount(enlarged.labels))) == 1
    assert np.array_equal(enlarged.images[: len(balanced)], balanced.images)
    assert split.indices["val"] is split.indices["test"]
    train_sources = {original(enlarged, i) for i in split.indices["train"]}
    assert np.mean([original(enlarged, i) in train_sources for i in split.indices["test"]]) > 0.8


def test_modified_copies_resemble_their_image_and_have_its_label(faces):
    enlarged = leaky_augmented(faces, copies=2).faces
    for position in range(len(faces), len(enlarged)):
        source = original(enlarged, position)
        assert enlarged.labels[position] == faces.labels[source]
        assert enlarged.usage[position] == faces.usage[source]
        assert np.array_equal(enlarged.votes[position], faces.votes[source])
    copy = enlarged.images[len(faces) : 2 * len(faces)].astype(float)
    image = faces.images.astype(float)
    near = np.minimum(np.abs(copy - image).mean((1, 2)), np.abs(copy - image[:, :, ::-1]).mean((1, 2)))
    other = np.abs(copy - np.roll(image, 1, axis=0)).mean((1, 2))
    assert np.median(near) < 0.5 * np.median(other)
    assert not np.array_equal(copy, image)


def test_stored_copies_are_only_in_training(faces):
    split, baseline = stored_copies(faces), official(faces)
    assert split.name == "stored_copies(copies=2)"
    assert not split.is_leaky
    assert len(split.indices["train"]) == 3 * len(baseline.indices["train"])
    for part in ("val", "test"):
        assert np.array_equal(split.indices[part], baseline.indices[part])
    assert set(split.faces.usage[len(faces) :]) == {"Training"}


def test_colour_images_are_copied_in_colour(faces):
    colour = dataclasses.replace(faces, images=np.stack([faces.images, faces.images // 2, faces.images // 4], axis=3))
    enlarged = stored_copies(colour, copies=1).faces
    assert enlarged.images.shape == (len(faces) + np.sum(faces.usage == "Training"), 24, 24, 3)
    red, _, blue = enlarged.images[len(faces) :].astype(int).transpose(3, 0, 1, 2)
    assert red.mean() > 3 * blue.mean()


def test_fingerprint_matches_the_content(faces):
    enlarged = leaky_oversampled(faces).faces
    assert enlarged.fingerprint == content_fingerprint(
        enlarged.images, enlarged.labels, enlarged.usage, enlarged.classes
    )


@pytest.mark.parametrize("protocol", [leaky_augmented, leaky_all, stored_copies])
def test_rejects_invalid_copies(protocol, faces):
    with pytest.raises(ValueError, match=r"protocol\.copies must be 1 or more, got 0"):
        protocol(faces, copies=0)


def test_thousands_of_copies_match_their_source_images() -> None:
    shades = np.arange(7000) % 250
    few = draw_faces(70, image_size=24)
    images = np.broadcast_to(shades.astype(np.uint8)[:, None, None], (7000, 8, 8)).copy()
    repeated = np.arange(7000) % 70
    columns = {name: getattr(few, name)[repeated] for name in ("labels", "usage")}
    names = np.array([f"row {row}".encode() for row in range(7000)])
    many = dataclasses.replace(few, images=images, names=names, votes=None, **columns)
    enlarged = stored_copies(many, copies=1).faces
    assert enlarged is not None
    copies = np.arange(7000, len(enlarged))
    # A constant image stays constant except for brightness and border.
    centres = enlarged.images[copies, 4, 4].astype(float)
    sources = np.array([original(enlarged, position) for position in copies])
    assert np.corrcoef(centres, shades[sources])[0, 1] > 0.95
