"""Standard protocols: invariants on random data sets, examples by hand, and FER2013 itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.faces import face_arrays
from helpers.fer2013 import REAL_DATA
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from fer_lightning.config import ROOT
from fer_lightning.data.arrays import DataError, FaceArrays
from fer_lightning.data.protocols.split import Split
from fer_lightning.data.protocols.standard import kaggle, kfold, official, subset
from fer_lightning.labels import FERPLUS_COLUMNS, USAGES

REAL = REAL_DATA / "fer2013-kaggle.zip"


def faces(labels, usage, pixels=None) -> FaceArrays:
    """A data set of 2x2 images; equal `pixels` give equal images, by default all differ."""
    pixels = np.arange(len(labels)) if pixels is None else np.asarray(pixels)
    images = np.zeros((len(labels), 2, 2), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 1] = pixels % 256, pixels // 256
    return face_arrays(images, labels, usage, classes="abcd")


def two_class_faces(training: int = 60, public: int = 12, private: int = 12) -> FaceArrays:
    """Two classes in all three parts, the first twice as frequent as the second."""
    counts = (training, public, private)
    usage = [name for name, count in zip(USAGES, counts, strict=True) for _ in range(count)]
    return faces([i % 3 // 2 for i in range(len(usage))], usage)


@st.composite
def data_sets(draw) -> FaceArrays:
    size = draw(st.integers(20, 80))
    labels = draw(st.lists(st.sampled_from([0, 0, 0, 1, 1, 2]), min_size=size, max_size=size))
    usage = draw(st.lists(st.sampled_from(["Training", "Training", *USAGES]), min_size=size, max_size=size))
    pixels = draw(st.lists(st.integers(0, 2 * size), min_size=size, max_size=size))  # with copies
    usage[:3] = USAGES
    return faces(labels, usage, pixels)


PROTOCOLS = [
    (official, {}),
    (kaggle, {"val_fraction": 0.3}),
    (kfold, {"folds": 3, "fold": 1}),
    (subset, {"fraction": 0.4}),
]


def split_of(protocol, data, **keywords) -> Split:
    try:
        return protocol(data, **keywords)
    except DataError:  # too few images: a part is empty
        reject()


@pytest.mark.parametrize(("protocol", "keywords"), PROTOCOLS, ids=lambda value: getattr(value, "__name__", ""))
@settings(max_examples=60, deadline=None)
@given(data=data_sets(), seed=st.integers(0, 3))
def test_parts_are_disjoint_sorted_and_reproducible(protocol, keywords, data, seed):
    keywords = keywords | ({} if protocol is official else {"seed": seed})
    split = split_of(protocol, data, **keywords)
    parts = split.indices
    assert list(parts) == ["train", "val", "test", "test_deduplicated"]
    together = np.concatenate([parts[name] for name in ("train", "val", "test")])
    assert len(np.unique(together)) == len(together)
    for indices in parts.values():
        assert indices.dtype == np.int64
        assert (np.diff(indices) > 0).all()
    assert "PrivateTest" not in data.usage[np.concatenate([parts["train"], parts["val"]])]

    # Slow reference of the deduplicated test part: compares images one by one.
    train_val_images = {data.images[i].tobytes() for i in [*parts["train"], *parts["val"]]}
    assert parts["test_deduplicated"].tolist() == [
        i for i in parts["test"] if data.images[i].tobytes() not in train_val_images
    ]
    again = protocol(data, **keywords)
    assert again.name == split.name
    assert all(np.array_equal(again.indices[name], parts[name]) for name in parts)


@settings(max_examples=60, deadline=None)
@given(data=data_sets(), folds=st.integers(2, 6), seed=st.integers(0, 3))
def test_kfold_validates_on_every_image_once_and_groups_copies(data, folds, seed):
    splits = [split_of(kfold, data, folds=folds, fold=fold, seed=seed) for fold in range(folds)]
    val = np.concatenate([split.indices["val"] for split in splits])
    assert sorted(val) == np.flatnonzero(data.usage != "PrivateTest").tolist()
    for split in splits:
        train_images = {data.images[i].tobytes() for i in split.indices["train"]}
        assert not any(data.images[i].tobytes() in train_images for i in split.indices["val"])
        assert np.array_equal(split.indices["test"], splits[0].indices["test"])


@settings(max_examples=30, deadline=None)
@given(data=data_sets())
def test_kaggle_never_validates_on_a_copy_of_a_training_image(data):
    split = split_of(kaggle, data, val_fraction=0.3)
    train_images = {data.images[i].tobytes() for i in split.indices["train"]}
    assert not any(data.images[i].tobytes() in train_images for i in split.indices["val"])


def test_official_by_hand():
    data = faces([0, 1, 0, 1, 0, 0], ["Training", "PrivateTest", "PublicTest", "PrivateTest"] + ["PrivateTest"] * 2)
    split = official(data)
    assert split.name == "official"
    assert {name: part.tolist() for name, part in split.indices.items()} == {
        "train": [0],
        "val": [2],
        "test": [1, 3, 4, 5],
        "test_deduplicated": [1, 3, 4, 5],
    }


def test_deduplicated_by_hand():
    usage = ["Training", "PublicTest"] + ["PrivateTest"] * 4
    data = faces([0] * 6, usage, pixels=[10, 11, 10, 11, 12, 12])
    # Row 2 has a copy in train, row 3 in val; 4 and 5 are only copies of each other.
    assert official(data).indices["test_deduplicated"].tolist() == [4, 5]


def test_splits_are_stratified():
    data = two_class_faces()  # Training: 40 and 20 images, the other parts 8 and 4
    parts = kaggle(data, val_fraction=0.25).indices
    assert np.bincount(data.labels[parts["train"]]).tolist() == [30, 15]
    assert np.bincount(data.labels[parts["val"]]).tolist() == [10, 5]
    assert np.bincount(data.labels[parts["test"]]).tolist() == [16, 8]

    for fold in range(4):
        parts = kfold(data, folds=4, fold=fold).indices
        assert np.bincount(data.labels[parts["val"]]).tolist() == [12, 6]
        assert np.bincount(data.labels[parts["train"]]).tolist() == [36, 18]

    parts = subset(data, fraction=0.5).indices
    assert [np.bincount(data.labels[parts[name]]).tolist() for name in ("train", "val", "test")] == [
        [20, 10],
        [4, 2],
        [4, 2],
    ]


def test_another_seed_gives_another_split_and_name():
    data = two_class_faces()
    for protocol, plain, seeded in [
        (kaggle, "kaggle(val_fraction=0.1)", "kaggle(val_fraction=0.1, seed=3)"),
        (kfold, "kfold(fold=0 of 5)", "kfold(fold=0 of 5, seed=3)"),
        (subset, "subset(0.1)", "subset(0.1, seed=3)"),
    ]:
        first, second = protocol(data), protocol(data, seed=3)
        assert (first.name, second.name) == (plain, seeded)
        assert not np.array_equal(first.indices["train"], second.indices["train"])


def test_a_smaller_subset_is_contained_in_a_larger_with_every_class():
    data = two_class_faces()
    small, large = subset(data, fraction=0.01).indices, subset(data, fraction=0.3).indices
    for name in ("train", "val", "test"):
        assert set(data.labels[small[name]]) == {0, 1}
        assert set(small[name]) <= set(large[name])
    assert np.array_equal(subset(data, fraction=1).indices["train"], official(data).indices["train"])


def test_a_class_with_one_image_is_in_training():
    data = faces([0] * 20 + [1, 0], ["Training"] * 21 + ["PrivateTest"])
    parts = kaggle(data, val_fraction=0.2).indices
    assert 20 in parts["train"]
    assert len(parts["val"]) == 4


def test_missing_parts_name_the_remedy():
    with pytest.raises(DataError, match=r"by_hand has no validation part \(PublicTest\): use protocol=kaggle"):
        official(two_class_faces(public=0))
    with pytest.raises(DataError, match=r"no validation part .*protocol=kaggle"):
        subset(two_class_faces(public=0))
    with pytest.raises(DataError, match=r"by_hand has no test part \(PrivateTest\): use protocol=kaggle"):
        official(two_class_faces(private=0))
    assert len(kaggle(two_class_faces(public=0)).indices["test"]) == 12
    for protocol in (official, kaggle, subset):
        with pytest.raises(DataError, match=r"no test images under protocol \w+.*PrivateTest \(a test/ folder\)"):
            protocol(two_class_faces(public=0, private=0), **({"fraction": 0.5} if protocol is subset else {}))
    with pytest.raises(DataError, match=r"no test images under protocol kfold"):
        kfold(two_class_faces(private=0))
    with pytest.raises(DataError, match=r"no training images under protocol"):
        official(two_class_faces(training=0))
    with pytest.raises(DataError, match=r"no validation images .*more images or a larger fraction"):
        kaggle(two_class_faces(training=6), val_fraction=0.01)


@pytest.mark.parametrize(
    ("protocol", "keywords", "message"),
    [
        (kaggle, {"val_fraction": 0}, r"protocol\.val_fraction must lie between 0 and 1, got 0"),
        (kaggle, {"val_fraction": 1.5}, r"protocol\.val_fraction must lie between 0 and 1, got 1\.5"),
        (kfold, {"folds": 1}, r"protocol\.folds must be 2 or more, got 1"),
        (kfold, {"fold": 5}, r"protocol\.fold must lie between 0 and 4, got 5"),
        (subset, {"fraction": 0}, r"protocol\.fraction must be above 0 and at most 1, got 0"),
    ],
)
def test_rejects_invalid_settings(protocol, keywords, message):
    with pytest.raises(ValueError, match=message):
        protocol(two_class_faces(), **keywords)


@pytest.mark.parametrize("option", sorted(path.stem for path in (ROOT / "conf/protocol").glob("*.yaml")))
def test_every_option_splits(option):
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose(overrides=[f"+protocol={option}"]).protocol
    votes = np.zeros((84, len(FERPLUS_COLUMNS)), dtype=np.float32)
    votes[:, 0] = 10
    split = instantiate(config, replace(two_class_faces(), votes=votes))
    assert split.name.startswith(option)


@pytest.mark.skipif(not REAL.exists(), reason=f"FER2013 is not at {REAL}")
def test_fer2013():
    from fer_lightning.data.sources.readers import read_faces

    data = read_faces(REAL)
    sizes = {name: len(part) for name, part in official(data).indices.items()}
    assert sizes == {"train": 28_709, "val": 3_589, "test": 3_589, "test_deduplicated": 3_275}
    parts = kaggle(data).indices
    assert len(parts["test"]) == 7_178
    assert len(parts["train"]) + len(parts["val"]) == 28_709
    fraction = np.bincount(data.labels[parts["val"]]) / np.bincount(data.labels[data.usage == "Training"])
    assert np.abs(fraction - 0.1).max() < 0.005
