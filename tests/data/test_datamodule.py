import pickle
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.faces import face_arrays

from fer_lightning.data.arrays import DataError, FaceArrays
from fer_lightning.data.datamodule import EpochSampler, FaceDataset, FERDataModule, StreamingLoader, to_unit_range
from fer_lightning.data.protocols.split import Split
from fer_lightning.labels import EMOTIONS, FERPLUS_COLUMNS

NONE = {"policy": None, "mix": None}
PER_IMAGE = {
    "policy": {"_target_": "fer_lightning.data.augmentation.per_image.ImageAugmentation", "rotation": 20.0},
    "mix": None,
}
BATCHED = {
    "policy": {"_target_": "fer_lightning.data.augmentation.batched.BatchedAugmentation", "rotation": 20.0},
    "mix": None,
}
MIXED = {"policy": None, "mix": {"_target_": "fer_lightning.data.augmentation.mixing.MixUp", "alpha": 1.0}}


def random_faces(count: int = 40, votes: bool = False) -> FaceArrays:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 12, 12), dtype=np.uint8)
    labels = np.where(np.arange(count) % 10 == 0, 1, 3)
    table = np.zeros((count, len(FERPLUS_COLUMNS)), dtype=np.float32)
    table[:, 1] = 6  # happiness
    table[:, 0] = 2  # neutral
    return face_arrays(images, labels, ["Training"] * count, votes=table if votes else None)


def split(count: int = 40) -> Split:
    index = np.arange(count)
    return Split("test", {"train": index[: count - 10], "val": index[count - 10 :], "test": index[:0]})


def make_datamodule(
    augmentation: dict, training: bool = True, faces: FaceArrays | None = None, **options
) -> FERDataModule:
    datamodule = FERDataModule(faces or random_faces(), split(), batch_size=8, augmentation=augmentation, **options)
    datamodule.trainer = SimpleNamespace(training=training)
    return datamodule


def batches(datamodule: FERDataModule, epoch: int = 0) -> list[dict]:
    loader = datamodule.train_dataloader() if datamodule.trainer.training else datamodule.val_dataloader()
    loader.sampler.set_epoch(epoch)
    return [datamodule.on_after_batch_transfer(batch, 0) for batch in loader]


def test_sampler_yields_every_image_once_and_reshuffles_each_epoch() -> None:
    sampler = EpochSampler(np.arange(100, 120), 5, seed=1, shuffle=True)
    first = [request.positions for request in sampler]
    assert sorted(sum(first, [])) == list(range(100, 120))
    assert [request.positions for request in sampler] == first
    sampler.set_epoch(1)
    assert [request.positions for request in sampler] != first


def test_sampler_drops_a_last_small_batch_only_with_shuffle() -> None:
    index = np.arange(7)
    assert [len(request.positions) for request in EpochSampler(index, 3, shuffle=True)] == [3, 3]
    assert [len(request.positions) for request in EpochSampler(index, 10, shuffle=True)] == [7]
    ordered = EpochSampler(index, 3)
    assert sum((request.positions for request in ordered), []) == list(range(7))
    assert len(ordered) == 3


def test_balanced_sampler_draws_classes_equally_often() -> None:
    datamodule = make_datamodule(NONE, sampler="balanced")
    labels = [int(i) for epoch in range(20) for b in batches(datamodule, epoch) for i in b["label"]]
    assert 0.42 < labels.count(1) / len(labels) < 0.58
    labels = [int(i) for epoch in range(20) for b in batches(make_datamodule(NONE), epoch) for i in b["label"]]
    assert labels.count(1) / len(labels) < 0.15


def test_batches_have_the_images_of_their_positions() -> None:
    faces = random_faces()
    for resident in (True, False):
        for batch in batches(make_datamodule(NONE, faces=faces, resident=resident)):
            index = batch["index"].numpy()
            assert torch.equal(batch["image"], to_unit_range(torch.from_numpy(faces.images[index])))
            assert batch["label"].tolist() == faces.labels[index].tolist()
            assert "target" not in batch


@pytest.mark.parametrize("augmentation", [PER_IMAGE, BATCHED, MIXED], ids=["per image", "batched", "mix"])
def test_augmentation_depends_on_seed_and_epoch_and_is_only_for_training(augmentation: dict) -> None:
    unaugmented = batches(make_datamodule(NONE))
    first = batches(make_datamodule(augmentation))
    assert not torch.equal(first[0]["image"], unaugmented[0]["image"])
    assert all(
        torch.equal(a["image"], b["image"]) for a, b in zip(first, batches(make_datamodule(augmentation)), strict=True)
    )
    later = batches(make_datamodule(augmentation), epoch=1)
    assert not torch.equal(first[0]["image"], later[0]["image"])
    untouched = batches(make_datamodule(augmentation, training=False))
    assert torch.equal(untouched[0]["image"], batches(make_datamodule(NONE, training=False))[0]["image"])


def test_workers_give_the_same_batches() -> None:
    alone = batches(make_datamodule(PER_IMAGE))
    shared = batches(make_datamodule(PER_IMAGE, workers=2))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(alone, shared, strict=True))


def test_flips_alternate_by_epoch() -> None:
    augmentation = {"policy": {"_target_": "fer_lightning.data.augmentation.batched.BatchedAugmentation"}, "mix": None}
    augmentation["policy"] |= {"flip": "alternate", "rotation": 0.0}
    faces = random_faces()
    flips: list[dict[int, bool]] = []
    for epoch in range(4):
        datamodule = make_datamodule(augmentation, faces=faces, seed=3)
        datamodule.trainer.current_epoch = epoch
        seen = {}
        for batch in batches(datamodule, epoch):
            for index, image in zip(batch["index"].tolist(), batch["image"][:, 0], strict=True):
                own = torch.from_numpy(faces.images[index]) / 255
                original, mirrored = (torch.allclose(image, face, atol=1e-5) for face in (own, own.flip(1)))
                assert original != mirrored
                seen[index] = mirrored
        flips.append(seen)
    for index in flips[0].keys() & flips[1].keys():
        assert flips[0][index] != flips[1][index]
    for index in flips[0].keys() & flips[2].keys():
        assert flips[0][index] == flips[2][index]
    assert 0 < sum(flips[0].values()) < len(flips[0]), "each epoch flips some images"
    with pytest.raises(ValueError, match=r"policy\.flip is 'alternate'; give a number; flip=alternate needs"):
        make_datamodule({"policy": {**PER_IMAGE["policy"], "flip": "alternate"}, "mix": None})
    with pytest.raises(ValueError, match=r"policy\.flip is 'often'; give a number"):
        make_datamodule({"policy": {**augmentation["policy"], "flip": "often"}, "mix": None})


def test_mixed_batches_have_soft_targets() -> None:
    batch = batches(make_datamodule(MIXED))[0]
    target = batch["target"]
    assert target.shape == (8, len(EMOTIONS))
    assert torch.allclose(target.sum(dim=1), torch.ones(8))
    faces, changed = random_faces(), 0
    for batch in (batch for epoch in range(5) for batch in batches(make_datamodule(MIXED, faces=faces), epoch)):
        weights = batch["target"].gather(1, batch["label"][:, None]).squeeze(1)
        assert torch.equal(weights, batch["target"].max(dim=1).values), "the label has the largest weight"
        changed += int((batch["label"] != torch.from_numpy(faces.labels)[batch["index"]]).sum())
    assert changed, "no label changed: the test has no effect"


@pytest.mark.parametrize("augmentation", [BATCHED, MIXED], ids=["batched", "mix"])
def test_draws_of_a_batch_depend_only_on_its_seed(augmentation: dict) -> None:
    datamodule = make_datamodule(augmentation)
    index = torch.arange(8)
    first, again, other = (
        datamodule.on_after_batch_transfer({"index": index, "seed": seed}, 0)["image"] for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_votes_are_soft_targets_only_in_training() -> None:
    faces = random_faces(votes=True)
    batch = batches(make_datamodule(NONE, faces=faces, targets="votes"))[0]
    happy, neutral = EMOTIONS.index("happy"), EMOTIONS.index("neutral")
    assert torch.allclose(batch["target"][:, happy], torch.full((8,), 0.75))
    assert torch.allclose(batch["target"][:, neutral], torch.full((8,), 0.25))
    assert "target" not in batches(make_datamodule(NONE, training=False, faces=faces, targets="votes"))[0]


def test_missing_votes_name_the_remedy() -> None:
    with pytest.raises(DataError, match=r"data\.votes_path"):
        make_datamodule(NONE, targets="votes")


def test_a_missing_part_is_reported() -> None:
    with pytest.raises(DataError, match="no part 'extra'"):
        make_datamodule(NONE).part_dataloader("extra")


def test_class_counts_are_those_of_the_train_part() -> None:
    assert make_datamodule(NONE).class_counts == [0, 3, 0, 27, 0, 0, 0]


def test_a_single_class_is_rejected() -> None:
    faces = replace(random_faces(), classes=("happy",))
    with pytest.raises(DataError, match="has only one class, happy"):
        make_datamodule(NONE, faces=faces)


def test_every_process_gets_equally_many_images_of_a_small_part() -> None:
    per_rank = [list(EpochSampler(np.arange(5), 64, shuffle=True, rank=rank, world_size=2)) for rank in range(2)]
    assert [[len(request.positions) for request in requests] for requests in per_rank] == [[2], [2]]
    with pytest.raises(DataError, match="2 training images cannot be divided among 3 processes"):
        EpochSampler(np.arange(2), 64, shuffle=True, world_size=3)


def test_class_counts_are_equal_with_the_balanced_sampler() -> None:
    assert len(set(make_datamodule(NONE, sampler="balanced").class_counts)) == 1


def test_colour_images_are_channels_first() -> None:
    images = torch.zeros(2, 4, 5, 3, dtype=torch.uint8)
    images[0, 1, 2] = torch.tensor([255, 51, 0], dtype=torch.uint8)
    unit = to_unit_range(images)
    assert unit.shape == (2, 3, 4, 5)
    assert unit[0, :, 1, 2].tolist() == pytest.approx([1.0, 0.2, 0.0])


def memory_mapped_faces(folder: Path, count: int = 40) -> FaceArrays:
    faces = random_faces(count)
    np.save(folder / "images.npy", faces.images)
    return replace(faces, images=np.load(folder / "images.npy", mmap_mode="r"))


def batches_equal(first: list[dict], second: list[dict]) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "val"])
@pytest.mark.parametrize("augmentation", [NONE, PER_IMAGE, BATCHED, MIXED], ids=["none", "per image", "batched", "mix"])
def test_streamed_and_resident_data_give_the_same_batches(tmp_path: Path, augmentation: dict, training: bool) -> None:
    resident = make_datamodule(augmentation, training, resident=True)
    streamed = make_datamodule(augmentation, training, faces=memory_mapped_faces(tmp_path), resident=False)
    for epoch in range(2):
        assert batches_equal(batches(resident, epoch), batches(streamed, epoch))


def test_read_ahead_does_not_affect_interrupted_and_resumed_epochs(tmp_path: Path) -> None:
    whole = [batches(make_datamodule(BATCHED, resident=True), epoch) for epoch in range(3)]
    streamed = make_datamodule(BATCHED, faces=memory_mapped_faces(tmp_path), resident=False)
    loader = streamed.train_dataloader()
    assert isinstance(loader, StreamingLoader)
    assert len(loader) == len(whole[0])
    loader.sampler.set_epoch(1)
    assert batches_equal([streamed.on_after_batch_transfer(raw, 0) for raw in islice(loader, 2)], whole[1][:2])
    loader.sampler.set_epoch(2)
    assert batches_equal([streamed.on_after_batch_transfer(raw, 0) for raw in loader], whole[2])
    assert batches_equal(
        batches(make_datamodule(BATCHED, faces=memory_mapped_faces(tmp_path), resident=False), 2), whole[2]
    )  # a resumed run


def test_each_process_streams_its_part_of_each_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, per_rank = batches(make_datamodule(NONE, resident=True)), []
    for rank in range(2):
        monkeypatch.setattr(FERDataModule, "_rank_arguments", lambda self, rank=rank: {"rank": rank, "world_size": 2})
        per_rank.append(batches(make_datamodule(BATCHED, faces=memory_mapped_faces(tmp_path), resident=False)))
        assert batches_equal(per_rank[-1], batches(make_datamodule(BATCHED, resident=True)))
    for whole, first, second in zip(alone, *per_rank, strict=True):
        assert sorted([*first["index"].tolist(), *second["index"].tolist()]) == sorted(whole["index"].tolist())


def test_workers_stream_the_same_batches(tmp_path: Path) -> None:
    alone = batches(make_datamodule(BATCHED, resident=True))
    assert batches_equal(
        alone, batches(make_datamodule(BATCHED, faces=memory_mapped_faces(tmp_path), resident=False, workers=1))
    )


def test_a_worker_without_shared_memory_maps_the_file_itself(tmp_path: Path) -> None:
    dataset = FaceDataset(memory_mapped_faces(tmp_path, 2000).images)
    sent = pickle.dumps(dataset)
    assert len(sent) < 2000
    request = next(iter(EpochSampler(np.arange(2000), 64, shuffle=True)))
    assert torch.equal(pickle.loads(sent)[request]["pixels"], dataset[request]["pixels"])


def test_large_data_sets_stream_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    size = random_faces().images.nbytes
    monkeypatch.setattr("fer_lightning.data.datamodule.RESIDENT_LIMIT", size)
    assert make_datamodule(NONE).resident
    monkeypatch.setattr("fer_lightning.data.datamodule.RESIDENT_LIMIT", size - 1)
    assert not make_datamodule(NONE).resident
    assert make_datamodule(NONE, resident=True).resident


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc/self/smaps")
def test_streaming_keeps_only_a_few_batches_of_the_file_in_memory(tmp_path: Path) -> None:
    def mapped_kib() -> int:  # KiB of the file in memory now
        rows = Path("/proc/self/smaps").read_text().split(f"{tmp_path}/images.npy\n")
        assert len(rows) == 2
        return int(re.search(r"Rss: +(\d+) kB", rows[1])[1])

    count = 50_000
    faces = memory_mapped_faces(tmp_path, count)
    whole = faces.images.nbytes // 1024
    assert faces.images.max() == 255  # reads the whole file
    assert mapped_kib() >= whole
    datamodule = FERDataModule(faces, split(count), batch_size=8, augmentation=NONE, resident=False)
    datamodule.trainer = SimpleNamespace(training=True)
    seen = [mapped_kib() for number, _ in enumerate(datamodule.train_dataloader()) if number % 500 == 10]
    assert len(seen) > 10
    assert max(seen) < whole / 4
