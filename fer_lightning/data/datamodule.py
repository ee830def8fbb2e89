"""FERDataModule: from FaceArrays and a split to batches on the training device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data._utils.pin_memory import pin_memory

from fer_lightning.config import build
from fer_lightning.data.arrays import DataError, FaceArrays, gather
from fer_lightning.data.augmentation.batched import BatchedAugmentation
from fer_lightning.data.augmentation.per_image import PictureAugmentation
from fer_lightning.data.protocols.split import Split
from fer_lightning.data.sources.chunks import ordered_map
from fer_lightning.labels import EMOTIONS, soft_targets

Batch = dict[str, Any]
"""The input of a step: `image` float (B, C, H, W) in [0, 1], `label` int64 (B,), `index` int64 (B,) positions in the
data set, `seed` of all that is drawn for this batch, and `target` float (B, classes) where targets are soft. Metrics
read `label`, of mixed pictures the class with the largest share; losses read `target` when it is there."""

RESIDENT_LIMIT = 2 * 1024**3
"""Sets of up to this many bytes are kept on the training device; FER2013 has 82.7 million."""

_READERS: Final = 2  # threads that read batches ahead, one batch each


class Draw(NamedTuple):
    """A request of the sampler to the data set: which pictures, and the seed of their augmentation."""

    positions: list[int]
    seed: int


class EpochSampler(Sampler[Draw]):
    """Batches of positions.

    Order and seeds follow from (seed, epoch) alone, so a resumed run draws as if never stopped.

    Args:
        index: int64 (N,) positions to draw from.
        batch_size: Pictures a batch.
        seed: Training seed.
        shuffle: Draw in random order and drop a last, smaller batch; else keep the order and every picture.
        weights: float (N,) chances of each position; given, an epoch is N draws with replacement.
        rank: Which of `world` processes draws.
        world: Processes that share the work: each batch where `shuffle`, else whole batches in turn, so that a
            picture is looked at in the same company as by one process.

    Raises:
        DataError: There are fewer pictures to train on than processes.
    """

    def __init__(
        self,
        index: NDArray[np.int64],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        weights: NDArray[np.float64] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.index = index
        self.batch_size = min(batch_size, len(index) // world * world) if shuffle else batch_size
        if not self.batch_size:
            raise DataError(f"{len(index)} pictures to train on cannot be shared by {world} processes")
        self.seed = seed
        self.shuffle = shuffle
        self.weights = weights
        self.rank = rank
        self.world = world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._batches if self.shuffle else len(self._turns())

    @property
    def _batches(self) -> int:
        """Batches of all processes together."""
        whole, rest = divmod(len(self.index), self.batch_size)
        return whole if self.shuffle or not rest else whole + 1

    def _turns(self) -> range:
        """The batches of this process; one without repeats the last, whose pictures `PredictionStore` counts once."""
        return range(min(self.rank, self._batches - 1), self._batches, self.world)

    def __iter__(self) -> Iterator[Draw]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = self.index
        if self.weights is not None:
            order = random.choice(order, size=len(order), p=self.weights / self.weights.sum())
        elif self.shuffle:
            order = random.permutation(order)
        seeds = random.integers(2**32, size=(self._batches, self.world))[:, self.rank]
        for batch in range(self._batches) if self.shuffle else self._turns():
            positions = order[batch * self.batch_size :][: self.batch_size]
            mine = positions[self.rank :: self.world] if self.shuffle else positions
            yield Draw(mine.tolist(), int(seeds[batch]))


class FaceDataset(Dataset[Batch]):
    """Answers a `Draw` with a batch; without `pictures` only with positions, for a set that lives on the device."""

    def __init__(self, pictures: NDArray[np.uint8] | None, policy: PictureAugmentation | None = None) -> None:
        self.pictures = pictures
        self.policy = policy

    def __getitem__(self, draw: Draw) -> Batch:
        batch: Batch = {"index": torch.tensor(draw.positions), "seed": draw.seed}
        if self.pictures is not None:
            pictures = gather(self.pictures, draw.positions)
            if self.policy is not None:
                self.policy.reseed(draw.seed)
                pictures = self.policy(pictures)
            batch["pictures"] = torch.from_numpy(pictures)
        return batch

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that does not share this process's memory: it maps the file anew, no picture is copied to it."""
        state, images = dict(vars(self)), self.pictures
        if isinstance(images, np.memmap):
            state["pictures"] = partial(np.memmap, images.filename, images.dtype, "r", images.offset, images.shape)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        images = state["pictures"]
        vars(self).update(state, pictures=images() if isinstance(images, partial) else images)


class StreamingLoader(DataLoader[Batch]):
    """Reads the next batches in threads while the step computes, which need not wait for the disk then."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch wants its own iterators, Lightning any
        return ordered_map(self._batch, self.sampler, _READERS)

    def _batch(self, draw: Draw) -> Batch:
        batch: Batch = self.dataset[draw]
        return pin_memory(batch) if self.pin_memory else batch  # type: ignore[no-untyped-call]


class FERDataModule(pl.LightningDataModule):
    """Loaders over the parts of a split; gathering, normalising to [0, 1] and augmentation happen on the device.

    Args:
        faces: The data set.
        split: Which picture belongs to which part.
        batch_size: Pictures a batch.
        augmentation: `policy` and `mix`, each None or a config with `_target_` (conf/augmentation).
        sampler: `shuffled`, or `balanced`: each class is drawn equally often.
        targets: `labels` (or the targets that the protocol made), or `votes`: FER+ votes as soft targets of the
            training pictures.
        resident: Keep the pictures on the device: True, False, or `auto`, which does so up to `RESIDENT_LIMIT`.
        workers: Processes that prepare batches of a set that is not resident, or with a per-picture policy. Without
            any, batches that only have to be read are read ahead in threads.
        seed: Training seed.

    Raises:
        DataError: Votes are asked for and the data set has none, the train or val part is empty, or there is one class.
        ValueError: Votes are asked for and the classes are not FER2013's.
    """

    def __init__(
        self,
        faces: FaceArrays,
        split: Split,
        *,
        batch_size: int,
        augmentation: Mapping[str, Any],
        sampler: str = "shuffled",
        targets: str = "labels",
        resident: bool | str = "auto",
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(faces.classes) < 2:
            raise DataError(f"{faces.name} has one class alone, {faces.classes[0]}: there is nothing to tell apart")
        for part in ("train", "val"):
            if len(split.indices[part]) == 0:
                raise DataError(f"{faces.name}: the {part} part of protocol {split.name} has no picture")
        self.faces = faces
        self.split = split
        self.batch_size = batch_size
        self.measured_part = "test"
        self.first_epoch = 0  # counted from 0; that of a resumed run is later
        self.sampler = sampler
        self.workers = workers
        self.seed = seed
        self.resident = faces.images.nbytes <= RESIDENT_LIMIT if resident == "auto" else bool(resident)
        policy = build(augmentation["policy"]) if augmentation["policy"] else None
        self.picture_policy = policy if isinstance(policy, PictureAugmentation) else None
        self.batch_policy: Callable[..., Tensor] | None = None if self.picture_policy else policy
        self.mix: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]] | None = (
            build(augmentation["mix"]) if augmentation["mix"] else None
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a memory map is read-only, and nothing writes to it
            self._held = {"pictures": torch.from_numpy(faces.images), "labels": torch.from_numpy(faces.labels)}
        if isinstance(policy, BatchedAugmentation) and policy.flips_alternate:
            drawn = torch.Generator().manual_seed(seed)
            self._held["flipped"] = torch.randint(2, (len(faces),), generator=drawn, dtype=torch.bool)  # in epoch 0
        self._moved: dict[str, Tensor] = {}
        if faces.targets is not None:
            self._held["targets"] = torch.from_numpy(faces.targets)
        if targets == "votes":
            if faces.classes != EMOTIONS:
                raise ValueError(
                    f"data.targets=votes is for FER2013's seven classes; under {split.name} leave data.targets=labels"
                )
            if faces.votes is None:
                raise DataError(
                    f"data.targets=votes, but {faces.name} has no votes; give data.votes_path=fer2013new.csv"
                )
            self._held["targets"] = torch.from_numpy(soft_targets(faces.votes, faces.labels))

    @property
    def view(self) -> float:
        """Share of the side of an image that a training step sees; below 1 where the augmentation cuts out windows."""
        return self.batch_policy.view if isinstance(self.batch_policy, BatchedAugmentation) else 1.0

    @property
    def class_counts(self) -> list[int]:
        """Pictures of each class in the train part; under `balanced`, where all are drawn as often, 1 of each."""
        labels = self.faces.labels[self.split.indices["train"]]
        counts: list[int] = np.bincount(labels, minlength=len(self.faces.classes)).tolist()
        return [1] * len(counts) if self.sampler == "balanced" else counts

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled or balanced batches of the train part, a last smaller one left out."""
        index = self.split.indices["train"]
        weights = None
        if self.sampler == "balanced":
            labels = self.faces.labels[index]
            weights = 1.0 / np.bincount(labels, minlength=len(self.faces.classes))[labels]
        sampler = EpochSampler(index, self.batch_size, seed=self.seed, shuffle=True, weights=weights, **self._share())
        sampler.set_epoch(self.first_epoch)  # workers begin to draw before Lightning names a resumed run's epoch
        return self._loader(sampler, self.picture_policy)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The val part in order."""
        return self.part_dataloader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The measured part in order."""
        return self.part_dataloader(self.measured_part)

    def part_dataloader(self, part: str) -> DataLoader[Batch]:
        """Any part of the split in order, as it is.

        Raises:
            DataError: The protocol has no such part.
        """
        if part not in self.split.indices:
            raise DataError(
                f"protocol {self.split.name} has no part {part!r}; there are {', '.join(self.split.indices)}"
            )
        return self._loader(EpochSampler(self.split.indices[part], self.batch_size, **self._share()), None)

    def _share(self) -> dict[str, Any]:
        """Which part of the work is this process's."""
        trainer = self.trainer
        if not isinstance(trainer, pl.Trainer):
            return {}
        return {"rank": trainer.global_rank, "world": trainer.world_size}

    def _on_cuda(self) -> bool:
        trainer = self.trainer
        return isinstance(trainer, pl.Trainer) and trainer.strategy.root_device.type == "cuda"

    def _loader(self, sampler: EpochSampler, policy: PictureAugmentation | None) -> DataLoader[Batch]:
        from_host = policy is not None or not self.resident
        workers = self.workers if from_host else 0
        loader = StreamingLoader if not (self.resident or policy or workers) else DataLoader
        return loader(
            FaceDataset(self.faces.images if from_host else None, policy),
            sampler=sampler,
            batch_size=None,  # a Draw already is a batch
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=from_host and self._on_cuda(),
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turns positions or uint8 pictures into the batch that the module reads (`Batch`)."""
        index: Tensor = batch["index"]
        pictures = batch.get("pictures")
        if pictures is None:
            pictures = self._on(index.device, "pictures").index_select(0, index)  # a row at a time, unlike [index]
        image = to_unit_range(pictures)
        label = self._on(index.device, "labels")[index]
        ready: Batch = {"image": image, "label": label, "index": index, "seed": batch["seed"]}
        if self.trainer is not None and self.trainer.training:
            generator = torch.Generator().manual_seed(batch["seed"])
            if self.batch_policy is not None:
                flipped = {}
                if "flipped" in self._held:
                    first = self._on(index.device, "flipped")[index]
                    flipped = {"flipped": first ^ bool(self.trainer.current_epoch % 2)}
                ready["image"] = self.batch_policy(image, generator, **flipped)
            if "targets" in self._held:
                ready["target"] = self._on(index.device, "targets")[index]
            if self.mix is not None:
                soft = ready.get("target", F.one_hot(label, len(self.faces.classes)).float())
                ready["image"], ready["target"] = self.mix(ready["image"], soft, generator)
                ready["label"] = ready["target"].argmax(dim=1)  # of the picture that is seen most
        return ready

    def _on(self, device: torch.device, name: str) -> Tensor:
        """Pictures, labels or targets on a device, moved there once."""
        kept = self._moved.get(name)
        if kept is None or kept.device != device:
            kept = self._moved[name] = self._held[name].to(device)
        return kept


def to_unit_range(pictures: Tensor) -> Tensor:
    """uint8 (B, H, W) or (B, H, W, 3) to float32 (B, 1 or 3, H, W) in [0, 1]."""
    channels_first = pictures.unsqueeze(1) if pictures.ndim == 3 else pictures.permute(0, 3, 1, 2)
    return channels_first / 255.0
