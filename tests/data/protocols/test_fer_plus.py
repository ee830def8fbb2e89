"""FER+ rules: by hand, against a slow reference, and with the counts of the authors' code."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from helpers.faces import face_arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_lightning.data.arrays import DataError, FaceArrays
from fer_lightning.data.datamodule import FERDataModule
from fer_lightning.data.protocols.fer_plus import RULES, distributions, fer_plus
from fer_lightning.data.sources.synthetic import draw_faces
from fer_lightning.labels import FERPLUS_COLUMNS, FERPLUS_EMOTIONS, FERPLUS_NAMES

NONE = {"policy": None, "mix": None}


def votes(**counts: int) -> list[int]:
    return [counts.get(name, 0) for name in FERPLUS_COLUMNS]


def distribution_of(rule: str, **counts: int) -> dict[str, float]:
    """The distribution of one image under a rule, without the zeros."""
    row = distributions(np.array([votes(**counts)], np.float32), rule)[0]
    return {name: pytest.approx(float(value)) for name, value in zip(FERPLUS_EMOTIONS, row, strict=True) if value}


@pytest.mark.parametrize(
    ("rule", "counts", "expected"),
    [
        ("majority", {"neutral": 6, "sadness": 4}, {"neutral": 1}),
        ("majority", {"neutral": 5, "sadness": 5}, {}),  # half is not more than half
        ("majority", {"neutral": 5, "sadness": 4, "fear": 1}, {"neutral": 1}),  # the single vote is ignored: 5 of 9
        ("majority", {"NF": 7, "fear": 3}, {}),
        ("majority", {"unknown": 6, "fear": 4}, {}),
        ("majority", dict.fromkeys(FERPLUS_COLUMNS, 1), {}),
        ("soft", {"neutral": 8, "sadness": 2}, {"neutral": 1}),  # the first has 75%
        ("soft", {"neutral": 7, "sadness": 3}, {"neutral": 0.7, "sadness": 0.3}),
        ("soft", {"neutral": 4, "sadness": 2, "fear": 2, "anger": 2}, {}),  # three are equal: four in total
        ("soft", {"neutral": 4, "sadness": 3, "fear": 3}, {"neutral": 0.4, "sadness": 0.3, "fear": 0.3}),
        ("soft", {"neutral": 6, "unknown": 4}, {"neutral": 1}),  # unknown is second: omitted, 60% are kept
        ("soft", {"neutral": 5, "unknown": 5}, {}),  # half is not enough
        ("soft", {"unknown": 5, "neutral": 3, "anger": 2}, {}),
        ("soft", {"neutral": 4, "unknown": 3, "anger": 3}, {"neutral": 4 / 7, "anger": 3 / 7}),
        ("multi_target", {"neutral": 5, "sadness": 3, "fear": 2}, {"neutral": 0.625, "sadness": 0.375}),
        ("multi_target", {"neutral": 4, "sadness": 2, "fear": 2, "anger": 2}, {}),  # 40% are kept
        ("multi_target", {"neutral": 4, "unknown": 3, "anger": 3}, {"neutral": 4 / 7, "anger": 3 / 7}),
        ("multi_target", {"NF": 4, "neutral": 3, "anger": 3}, {}),
    ],
)
def test_rules_by_hand(rule: str, counts: dict[str, int], expected: dict[str, float]) -> None:
    assert distribution_of(rule, **counts) == expected


def soft_reference(row: list[int]) -> list[float]:
    """The soft rule for one image, step by step."""
    remaining = {i: v for i, v in enumerate(row) if v > 1}
    total, kept, out = sum(remaining.values()), {}, [0.0] * 8
    while remaining and sum(kept.values()) < 0.75 * total and len(kept) < 3:
        most = max(remaining.values())
        equal = sorted(i for i, v in remaining.items() if v == most)
        kept |= {i: most for i in equal if i < 8}
        if equal[-1] >= 8:
            break
        for i in equal:
            del remaining[i]
    if len(kept) <= 3 and sum(kept.values()) > 0.5 * total:
        for i, v in kept.items():
            out[i] = v / sum(kept.values())
    return out


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=10, max_size=10))
def test_soft_matches_the_reference_and_rows_sum_to_one_or_zero(row: list[int]) -> None:
    table = np.array([row], np.float32)
    assert distributions(table, "soft")[0] == pytest.approx(soft_reference(row))
    for rule in RULES:
        total = float(distributions(table, rule).sum())
        assert total == pytest.approx(1) or total == 0


def test_parts_labels_and_targets() -> None:
    faces = draw_faces(400, image_size=24)
    split = fer_plus(faces, rule="soft")
    relabelled = split.faces
    assert relabelled is not None
    assert split.name == "fer_plus(soft)"
    assert not split.is_leaky
    assert relabelled.classes == FERPLUS_EMOTIONS
    assert relabelled.targets is not None
    assert relabelled.targets.dtype == np.float32
    assert relabelled.targets.sum(axis=1) == pytest.approx(1)
    assert np.array_equal(relabelled.targets.argmax(axis=1), relabelled.labels)
    assert fer_plus(faces).faces.targets is None  # type: ignore[union-attr]
    rows = [int(name.split()[1]) for name in relabelled.names]
    assert np.array_equal(relabelled.images, faces.images[rows])
    majority = distributions(faces.votes, "majority")[rows]
    for part, usage in {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}.items():
        assert set(relabelled.usage[split.indices[part]]) == {usage}
        if part != "train":
            assert np.array_equal(relabelled.targets[split.indices[part]], majority[split.indices[part]])
    original_names = [FERPLUS_NAMES[faces.classes[label]] for label in faces.labels[rows]]
    assert (
        np.mean(
            [relabelled.classes[label] == name for label, name in zip(relabelled.labels, original_names, strict=True)]
        )
        > 0.9
    )


def test_only_training_batches_have_targets() -> None:
    split = fer_plus(draw_faces(400, image_size=24), rule="multi_target")
    datamodule = FERDataModule(split.faces, split, batch_size=16, augmentation=NONE)
    for training in (True, False):
        datamodule.trainer = type("Trainer", (), {"training": training})()
        batch = next(iter(datamodule.train_dataloader() if training else datamodule.val_dataloader()))
        batch = datamodule.on_after_batch_transfer(batch, 0)
        assert ("target" in batch) is training
        if training:
            assert batch["target"].numpy() == pytest.approx(split.faces.targets[batch["index"].numpy()])


def test_seven_classes_without_contempt() -> None:
    faces = draw_faces(400, image_size=24)
    table = faces.votes.copy()
    table[faces.labels == 1] = votes(contempt=6, disgust=4)
    table[faces.labels == 0] = votes(anger=6, contempt=4)
    faces = dataclasses.replace(faces, votes=table)
    split = fer_plus(faces, rule="soft", contempt=False)
    assert split.name == "fer_plus(soft, without contempt)"
    assert split.faces.classes == FERPLUS_EMOTIONS[:7]
    rows = [int(name.split()[1]) for name in split.faces.names]
    assert not (faces.labels[rows] == 1).any()
    angry = split.faces.targets[split.faces.labels == FERPLUS_EMOTIONS.index("anger")]
    assert angry.max(axis=1) == pytest.approx(1)


def test_rejects_invalid_settings() -> None:
    faces = draw_faces(400, image_size=24)
    with pytest.raises(ValueError, match=r"protocol\.rule is 'mean'; it must be one of majority, soft, multi_target"):
        fer_plus(faces, rule="mean")
    with pytest.raises(DataError, match=r"synthetic has none; give data\.votes_path"):
        fer_plus(dataclasses.replace(faces, votes=None))
    split = fer_plus(faces)
    with pytest.raises(ValueError, match=r"under fer_plus\(majority\) leave data\.targets=labels"):
        FERDataModule(split.faces, split, batch_size=8, augmentation=NONE, targets="votes")


@pytest.fixture(scope="module")
def real_votes(real_data: Path) -> FaceArrays:
    """FER2013's rows with their real usage and votes; the rules do not use the pixels."""
    with (real_data / "fer2013new.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = np.array([[float(row[name]) for name in FERPLUS_COLUMNS] for row in rows], np.float32)
    count = len(rows)
    return face_arrays(
        np.arange(count, dtype="<u4").view(np.uint8).reshape(count, 2, 2),
        np.zeros(count),
        [row["Usage"] for row in rows],
        classes=["any"],
        name="fer2013",
        names=[row["Image name"] for row in rows],
        votes=table,
    )


@pytest.mark.parametrize(
    ("rule", "counts"),
    [
        ("majority", [25_060, 3_199, 3_153]),
        ("soft", [27_956, 3_505, 3_505]),
        ("multi_target", [27_671, 3_472, 3_472]),
    ],
)
def test_counts_of_the_real_votes(real_votes: FaceArrays, rule: str, counts: list[int]) -> None:
    kept = distributions(real_votes.votes, rule).sum(axis=1) > 0
    parts = ("Training", "PublicTest", "PrivateTest")
    assert [int(kept[real_votes.usage == usage].sum()) for usage in parts] == counts
    assert not kept[real_votes.names == b""].any()  # rows without a name are not faces
    split = fer_plus(real_votes, rule=rule)
    assert [len(split.indices[part]) for part in ("train", "val", "test")] == [counts[0], 3_199, 3_153]
    test = np.bincount(split.faces.labels[split.indices["test"]])
    assert test[FERPLUS_EMOTIONS.index("disgust")] == 18
    assert test[FERPLUS_EMOTIONS.index("contempt")] == 16


def test_counts_of_the_real_votes_without_contempt(real_votes: FaceArrays) -> None:
    split = fer_plus(real_votes, contempt=False)
    assert [len(split.indices[part]) for part in ("train", "val", "test")] == [24_941, 3_186, 3_137]
