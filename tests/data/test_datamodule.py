import pickle
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fer_lightning.data.arrays import DataError, FaceArrays, content_fingerprint
from fer_lightning.data.datamodule import EpochSampler, FaceDataset, FERDataModule, StreamingLoader, to_unit_range
from fer_lightning.data.protocols.split import Split
from fer_lightning.labels import EMOTIONS, FERPLUS_COLUMNS

NONE = {"policy": None, "mix": None}
PER_PICTURE = {
    "policy": {"_target_": "fer_lightning.data.augmentation.per_image.PictureAugmentation", "rotation": 20.0},
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
    labels = np.where(np.arange(count) % 10 == 0, 1, 3).astype(np.int64)
    usage = np.array(["Training"] * count)
    table = np.zeros((count, len(FERPLUS_COLUMNS)), dtype=np.float32)
    table[:, 1] = 6  # happiness
    table[:, 0] = 2  # neutral
    return FaceArrays(
        images,
        labels,
        usage,
        EMOTIONS,
        "random",
        content_fingerprint(images, labels, usage, EMOTIONS),
        np.array([f"row {i}".encode() for i in range(count)]),
        table if votes else None,
    )


def split(count: int = 40) -> Split:
    index = np.arange(count)
    return Split("test", {"train": index[: count - 10], "val": index[count - 10 :], "test": index[:0]})


def module(augmentation: dict, training: bool = True, faces: FaceArrays | None = None, **options) -> FERDataModule:
    made = FERDataModule(faces or random_faces(), split(), batch_size=8, augmentation=augmentation, **options)
    made.trainer = SimpleNamespace(training=training)
    return made


def batches(made: FERDataModule, epoch: int = 0) -> list[dict]:
    loader = made.train_dataloader() if made.trainer.training else made.val_dataloader()
    loader.sampler.set_epoch(epoch)
    return [made.on_after_batch_transfer(batch, 0) for batch in loader]


def test_sampler_draws_every_picture_once_and_anew_each_epoch() -> None:
    sampler = EpochSampler(np.arange(100, 120), 5, seed=1, shuffle=True)
    first = [draw.positions for draw in sampler]
    assert sorted(sum(first, [])) == list(range(100, 120))
    assert [draw.positions for draw in sampler] == first
    sampler.set_epoch(1)
    assert [draw.positions for draw in sampler] != first


def test_sampler_leaves_a_last_small_training_batch_out_and_keeps_it_in_order_otherwise() -> None:
    index = np.arange(7)
    assert [len(d.positions) for d in EpochSampler(index, 3, shuffle=True)] == [3, 3]
    assert [len(d.positions) for d in EpochSampler(index, 10, shuffle=True)] == [7]
    ordered_map = EpochSampler(index, 3)
    assert sum((d.positions for d in ordered_map), []) == list(range(7))
    assert len(ordered_map) == 3


def test_balanced_sampler_draws_rare_and_frequent_alike() -> None:
    made = module(NONE, sampler="balanced")
    labels = [int(i) for epoch in range(20) for b in batches(made, epoch) for i in b["label"]]
    assert 0.42 < labels.count(1) / len(labels) < 0.58
    labels = [int(i) for epoch in range(20) for b in batches(module(NONE), epoch) for i in b["label"]]
    assert labels.count(1) / len(labels) < 0.15


def test_batches_hold_the_pictures_of_their_positions() -> None:
    faces = random_faces()
    for resident in (True, False):
        for batch in batches(module(NONE, faces=faces, resident=resident)):
            index = batch["index"].numpy()
            assert torch.equal(batch["image"], to_unit_range(torch.from_numpy(faces.images[index])))
            assert batch["label"].tolist() == faces.labels[index].tolist()
            assert "target" not in batch


@pytest.mark.parametrize("augmentation", [PER_PICTURE, BATCHED, MIXED], ids=["per picture", "batched", "mix"])
def test_augmentation_repeats_by_seed_and_epoch_and_touches_training_only(augmentation: dict) -> None:
    plain = batches(module(NONE))
    first = batches(module(augmentation))
    assert not torch.equal(first[0]["image"], plain[0]["image"])
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, batches(module(augmentation)), strict=True))
    later = batches(module(augmentation), epoch=1)
    assert not torch.equal(first[0]["image"], later[0]["image"])
    untouched = batches(module(augmentation, training=False))
    assert torch.equal(untouched[0]["image"], batches(module(NONE, training=False))[0]["image"])


def test_workers_give_the_same_batches() -> None:
    alone = batches(module(PER_PICTURE))
    shared = batches(module(PER_PICTURE, workers=2))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(alone, shared, strict=True))


def test_flips_alternate_by_epoch() -> None:
    augmentation = {"policy": {"_target_": "fer_lightning.data.augmentation.batched.BatchedAugmentation"}, "mix": None}
    augmentation["policy"] |= {"flip": "alternate", "rotation": 0.0}
    faces = random_faces()
    sides: list[dict[int, bool]] = []
    for epoch in range(4):
        made = module(augmentation, faces=faces, seed=3)
        made.trainer.current_epoch = epoch
        seen = {}
        for batch in batches(made, epoch):
            for index, image in zip(batch["index"].tolist(), batch["image"][:, 0], strict=True):
                own = torch.from_numpy(faces.images[index]) / 255
                as_it_is, mirrored = (torch.allclose(image, face, atol=1e-5) for face in (own, own.flip(1)))
                assert as_it_is != mirrored
                seen[index] = mirrored
        sides.append(seen)
    for index in sides[0].keys() & sides[1].keys():
        assert sides[0][index] != sides[1][index]
    for index in sides[0].keys() & sides[2].keys():
        assert sides[0][index] == sides[2][index]
    assert 0 < sum(sides[0].values()) < len(sides[0]), "each epoch flips some"
    with pytest.raises(ValueError, match=r"policy\.flip is 'alternate'; give a number; flip=alternate is for"):
        module({"policy": {**PER_PICTURE["policy"], "flip": "alternate"}, "mix": None})
    with pytest.raises(ValueError, match=r"policy\.flip is 'often'; give a number"):
        module({"policy": {**augmentation["policy"], "flip": "often"}, "mix": None})


def test_mixed_batches_have_soft_targets() -> None:
    batch = batches(module(MIXED))[0]
    target = batch["target"]
    assert target.shape == (8, len(EMOTIONS))
    assert torch.allclose(target.sum(dim=1), torch.ones(8))
    faces, changed = random_faces(), 0
    for batch in (batch for epoch in range(5) for batch in batches(module(MIXED, faces=faces), epoch)):
        shares = batch["target"].gather(1, batch["label"][:, None]).squeeze(1)
        assert torch.equal(shares, batch["target"].max(dim=1).values), "train/accuracy counts what is seen most"
        changed += int((batch["label"] != torch.from_numpy(faces.labels)[batch["index"]]).sum())
    assert changed, "no picture was covered by another one: the test shows nothing"


@pytest.mark.parametrize("augmentation", [BATCHED, MIXED], ids=["batched", "mix"])
def test_what_is_drawn_for_a_batch_follows_from_its_seed_alone(augmentation: dict) -> None:
    made = module(augmentation)
    index = torch.arange(8)
    first, again, other = (
        made.on_after_batch_transfer({"index": index, "seed": seed}, 0)["image"] for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_votes_become_soft_targets_of_training_only() -> None:
    faces = random_faces(votes=True)
    batch = batches(module(NONE, faces=faces, targets="votes"))[0]
    happy, neutral = EMOTIONS.index("happy"), EMOTIONS.index("neutral")
    assert torch.allclose(batch["target"][:, happy], torch.full((8,), 0.75))
    assert torch.allclose(batch["target"][:, neutral], torch.full((8,), 0.25))
    assert "target" not in batches(module(NONE, training=False, faces=faces, targets="votes"))[0]


def test_votes_that_are_not_there_are_named() -> None:
    with pytest.raises(DataError, match=r"data\.votes_path"):
        module(NONE, targets="votes")


def test_a_part_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="no part 'extra'"):
        module(NONE).part_dataloader("extra")


def test_class_counts_are_those_of_the_train_part() -> None:
    assert module(NONE).class_counts == [0, 3, 0, 27, 0, 0, 0]


def test_one_class_alone_is_refused() -> None:
    faces = replace(random_faces(), classes=("happy",))
    with pytest.raises(DataError, match="has one class alone, happy"):
        module(NONE, faces=faces)


def test_every_process_gets_as_many_pictures_of_a_small_part() -> None:
    shares = [list(EpochSampler(np.arange(5), 64, shuffle=True, rank=rank, world=2)) for rank in range(2)]
    assert [[len(draw.positions) for draw in share] for share in shares] == [[2], [2]]
    with pytest.raises(DataError, match="2 pictures to train on cannot be shared by 3 processes"):
        EpochSampler(np.arange(2), 64, shuffle=True, world=3)


def test_class_counts_are_even_where_classes_are_drawn_evenly() -> None:
    assert len(set(module(NONE, sampler="balanced").class_counts)) == 1


def test_colour_pictures_go_channels_first() -> None:
    pictures = torch.zeros(2, 4, 5, 3, dtype=torch.uint8)
    pictures[0, 1, 2] = torch.tensor([255, 51, 0], dtype=torch.uint8)
    unit = to_unit_range(pictures)
    assert unit.shape == (2, 3, 4, 5)
    assert unit[0, :, 1, 2].tolist() == pytest.approx([1.0, 0.2, 0.0])


def mapped_faces(folder: Path, count: int = 40) -> FaceArrays:
    faces = random_faces(count)
    np.save(folder / "images.npy", faces.images)
    return replace(faces, images=np.load(folder / "images.npy", mmap_mode="r"))


def same(first: list[dict], second: list[dict]) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "val"])
@pytest.mark.parametrize(
    "augmentation", [NONE, PER_PICTURE, BATCHED, MIXED], ids=["none", "per picture", "batched", "mix"]
)
def test_a_streamed_set_gives_the_batches_of_a_resident_one(tmp_path: Path, augmentation: dict, training: bool) -> None:
    resident = module(augmentation, training, resident=True)
    streamed = module(augmentation, training, faces=mapped_faces(tmp_path), resident=False)
    for epoch in range(2):
        assert same(batches(resident, epoch), batches(streamed, epoch))


def test_what_is_read_ahead_changes_nothing_when_an_epoch_is_left_or_taken_up_later(tmp_path: Path) -> None:
    whole = [batches(module(BATCHED, resident=True), epoch) for epoch in range(3)]
    left = module(BATCHED, faces=mapped_faces(tmp_path), resident=False)
    loader = left.train_dataloader()
    assert isinstance(loader, StreamingLoader)
    assert len(loader) == len(whole[0])
    loader.sampler.set_epoch(1)
    assert same([left.on_after_batch_transfer(raw, 0) for raw in islice(loader, 2)], whole[1][:2])
    loader.sampler.set_epoch(2)
    assert same([left.on_after_batch_transfer(raw, 0) for raw in loader], whole[2])
    assert same(batches(module(BATCHED, faces=mapped_faces(tmp_path), resident=False), 2), whole[2])  # a resumed run


def test_each_process_streams_its_own_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, shares = batches(module(NONE, resident=True)), []
    for rank in range(2):
        monkeypatch.setattr(FERDataModule, "_share", lambda self, rank=rank: {"rank": rank, "world": 2})
        shares.append(batches(module(BATCHED, faces=mapped_faces(tmp_path), resident=False)))
        assert same(shares[-1], batches(module(BATCHED, resident=True)))
    for whole, first, second in zip(alone, *shares, strict=True):
        assert sorted([*first["index"].tolist(), *second["index"].tolist()]) == sorted(whole["index"].tolist())


def test_workers_stream_the_same_batches(tmp_path: Path) -> None:
    alone = batches(module(BATCHED, resident=True))
    assert same(alone, batches(module(BATCHED, faces=mapped_faces(tmp_path), resident=False, workers=1)))


def test_a_worker_that_shares_no_memory_maps_the_file_itself(tmp_path: Path) -> None:
    dataset = FaceDataset(mapped_faces(tmp_path, 2000).images)
    sent = pickle.dumps(dataset)
    assert len(sent) < 2000
    draw = next(iter(EpochSampler(np.arange(2000), 64, shuffle=True)))
    assert torch.equal(pickle.loads(sent)[draw]["pictures"], dataset[draw]["pictures"])


def test_large_sets_stream_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    size = random_faces().images.nbytes
    monkeypatch.setattr("fer_lightning.data.datamodule.RESIDENT_LIMIT", size)
    assert module(NONE).resident
    monkeypatch.setattr("fer_lightning.data.datamodule.RESIDENT_LIMIT", size - 1)
    assert not module(NONE).resident
    assert module(NONE, resident=True).resident


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's account of what is mapped")
def test_streaming_holds_no_more_of_the_file_than_a_few_batches(tmp_path: Path) -> None:
    def held() -> int:  # KiB of the file that are mapped at this moment
        rows = Path("/proc/self/smaps").read_text().split("images.npy\n")
        assert len(rows) == 2
        return int(re.search(r"Rss: +(\d+) kB", rows[1])[1])

    count = 50_000
    faces = mapped_faces(tmp_path, count)
    whole = faces.images.nbytes // 1024
    assert faces.images.max() == 255  # reads all
    assert held() >= whole
    made = FERDataModule(faces, split(count), batch_size=8, augmentation=NONE, resident=False)
    made.trainer = SimpleNamespace(training=True)
    seen = [held() for number, _ in enumerate(made.train_dataloader()) if number % 500 == 10]
    assert len(seen) > 10
    assert max(seen) < whole / 4
