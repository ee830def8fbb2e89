"""FERDataModule: from FaceArrays and a split to batches on the training device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
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
from fer_lightning.data.augmentation.per_image import ImageAugmentation
from fer_lightning.data.protocols.split import Split
from fer_lightning.data.sources.chunks import ordered_map
from fer_lightning.labels import EMOTIONS, soft_targets

Batch = dict[str, Any]
"""The input of a step: `image` float (B, C, H, W) in [0, 1], `label` int64 (B,), `index` int64 (B,) positions in the
data set, `seed` of the random draws of this batch, and `target` float (B, classes) for soft targets. Metrics read
`label`, for mixed images the class with the largest weight; losses read `target` if present."""

RESIDENT_LIMIT = 2 * 1024**3
"""Data sets of up to this many bytes are stored on the training device; FER2013 has 82.7 million."""

_READ_AHEAD_THREADS: Final = 2  # one batch per thread


class BatchRequest(NamedTuple):
    """What the sampler requests from the data set: positions of images and the seed of their augmentation."""

    positions: list[int]
    seed: int


class EpochSampler(Sampler[BatchRequest]):
    """Yields batches of positions with augmentation seeds.

    Order and seeds depend only on (seed, epoch), so a resumed run gets the same batches as an uninterrupted one.

    Args:
        index: int64 (N,) positions to sample from.
        batch_size: Images per batch.
        seed: Training seed.
        shuffle: Random order without the last, smaller batch; otherwise the given order with every image.
        weights: float (N,) sampling weight of each position; if given, an epoch is N draws with replacement.
        rank: Index of this process among `world_size`.
        world_size: Number of processes. With `shuffle` they divide each batch, otherwise they take whole batches in
            turn, so that an image is evaluated in the same batch as in a single process.

    Raises:
        DataError: There are fewer training images than processes.
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
        world_size: int = 1,
    ) -> None:
        self.index = index
        self.batch_size = min(batch_size, len(index) // world_size * world_size) if shuffle else batch_size
        if not self.batch_size:
            raise DataError(f"{len(index)} training images cannot be divided among {world_size} processes")
        self.seed = seed
        self.shuffle = shuffle
        self.weights = weights
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._total_batches if self.shuffle else len(self._own_batches())

    @property
    def _total_batches(self) -> int:
        """Number of batches of all processes together."""
        whole, rest = divmod(len(self.index), self.batch_size)
        return whole if self.shuffle or not rest else whole + 1

    def _own_batches(self) -> range:
        """Batches of this process; without one, the last again, whose images `PredictionStore` counts once."""
        return range(min(self.rank, self._total_batches - 1), self._total_batches, self.world_size)

    def __iter__(self) -> Iterator[BatchRequest]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = self.index
        if self.weights is not None:
            order = random.choice(order, size=len(order), p=self.weights / self.weights.sum())
        elif self.shuffle:
            order = random.permutation(order)
        seeds = random.integers(2**32, size=(self._total_batches, self.world_size))[:, self.rank]
        for batch in range(self._total_batches) if self.shuffle else self._own_batches():
            positions = order[batch * self.batch_size :][: self.batch_size]
            own = positions[self.rank :: self.world_size] if self.shuffle else positions
            yield BatchRequest(own.tolist(), int(seeds[batch]))


class FaceDataset(Dataset[Batch]):
    """Maps a `BatchRequest` to a batch; without `images` it has positions only, for a data set held on the device."""

    def __init__(self, images: NDArray[np.uint8] | None, policy: ImageAugmentation | None = None) -> None:
        self.images = images
        self.policy = policy

    def __getitem__(self, request: BatchRequest) -> Batch:
        batch: Batch = {"index": torch.tensor(request.positions), "seed": request.seed}
        if self.images is not None:
            images = gather(self.images, request.positions)
            if self.policy is not None:
                self.policy.reseed(request.seed)
                images = self.policy(images)
            batch["pixels"] = torch.from_numpy(images)
        return batch

    def __getstate__(self) -> dict[str, Any]:
        """State for a worker without shared memory: the worker maps the file itself instead of receiving a copy."""
        state, images = dict(vars(self)), self.images
        if isinstance(images, np.memmap):
            state["images"] = partial(np.memmap, images.filename, images.dtype, "r", images.offset, images.shape)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        images = state["images"]
        vars(self).update(state, images=images() if isinstance(images, partial) else images)


class StreamingLoader(DataLoader[Batch]):
    """DataLoader that reads the next batches in threads during a step, so that steps do not wait for the disk."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch declares its own iterator
        return ordered_map(self._batch, self.sampler, _READ_AHEAD_THREADS)

    def _batch(self, request: BatchRequest) -> Batch:
        batch: Batch = self.dataset[request]
        return pin_memory(batch) if self.pin_memory else batch  # type: ignore[no-untyped-call]


class FERDataModule(pl.LightningDataModule):
    """Data loaders for the parts of a split; indexing, scaling to [0, 1] and augmentation run on the device.

    Args:
        faces: The data set.
        split: Which image belongs to which part.
        batch_size: Images per batch.
        augmentation: `policy` and `mix`, each None or a config with `_target_` (conf/augmentation).
        sampler: `shuffled`, or `balanced`: each class is sampled equally often.
        targets: `labels` (or the targets set by the protocol), or `votes`: FER+ votes as soft targets of the training
            images.
        resident: Whether to keep the images on the device: True, False, or `auto`: up to `RESIDENT_LIMIT`.
        workers: Processes that prepare batches if the data set is not resident or the policy is per image. With 0,
            batches without such a policy are read ahead in threads.
        seed: Training seed.

    Raises:
        DataError: Votes are requested and the data set has none, the train or val part is empty, or there is only one
            class.
        ValueError: Votes are requested and the classes are not FER2013's.
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
            raise DataError(f"{faces.name} has only one class, {faces.classes[0]}; training needs two or more")
        for part in ("train", "val"):
            if len(split.indices[part]) == 0:
                raise DataError(f"{faces.name}: the {part} part of protocol {split.name} has no images")
        self.faces = faces = _with_vote_targets(faces, split.name) if targets == "votes" else faces
        self.split = split
        self.batch_size = batch_size
        self.measured_part = "test"
        self.first_epoch = 0  # from 0; later in a resumed run
        self.sampler = sampler
        self.workers = workers
        self.seed = seed
        self.resident = faces.images.nbytes <= RESIDENT_LIMIT if resident == "auto" else bool(resident)
        policy = build(augmentation["policy"]) if augmentation["policy"] else None
        self.image_policy = policy if isinstance(policy, ImageAugmentation) else None
        self.batch_policy: Callable[..., Tensor] | None = None if self.image_policy else policy
        self.mix: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]] | None = (
            build(augmentation["mix"]) if augmentation["mix"] else None
        )
        self._host_tensors = _tensors(faces)
        if isinstance(policy, BatchedAugmentation) and policy.flips_alternate:
            generator = torch.Generator().manual_seed(seed)
            flipped = torch.randint(2, (len(faces),), generator=generator, dtype=torch.bool)  # in even epochs
            self._host_tensors["flipped"] = flipped
        self._device_tensors: dict[str, Tensor] = {}

    @property
    def view(self) -> float:
        """Fraction of the side of an image that a training step shows; below 1 if the augmentation crops (`view`)."""
        return self.batch_policy.view if isinstance(self.batch_policy, BatchedAugmentation) else 1.0

    @property
    def class_counts(self) -> list[int]:
        """Number of training images per class; 1 per class with the `balanced` sampler."""
        labels = self.faces.labels[self.split.indices["train"]]
        counts: list[int] = np.bincount(labels, minlength=len(self.faces.classes)).tolist()
        return [1] * len(counts) if self.sampler == "balanced" else counts

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled or balanced batches of the train part, without a last, smaller batch."""
        index = self.split.indices["train"]
        weights = None
        if self.sampler == "balanced":
            labels = self.faces.labels[index]
            weights = 1.0 / np.bincount(labels, minlength=len(self.faces.classes))[labels]
        sampler = EpochSampler(
            index, self.batch_size, seed=self.seed, shuffle=True, weights=weights, **self._rank_arguments()
        )
        sampler.set_epoch(self.first_epoch)  # workers start before Lightning sets the epoch of a resumed run
        return self._loader(sampler, self.image_policy)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the val part in order."""
        return self.part_dataloader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the measured part in order."""
        return self.part_dataloader(self.measured_part)

    def part_dataloader(self, part: str) -> DataLoader[Batch]:
        """Batches of any part of the split in order, without augmentation.

        Raises:
            DataError: The protocol has no such part.
        """
        if part not in self.split.indices:
            raise DataError(
                f"protocol {self.split.name} has no part {part!r}; its parts are {', '.join(self.split.indices)}"
            )
        return self._loader(EpochSampler(self.split.indices[part], self.batch_size, **self._rank_arguments()), None)

    def _rank_arguments(self) -> dict[str, Any]:
        """Arguments `rank` and `world_size` of the sampler; empty without a Trainer."""
        trainer = self.trainer
        if not isinstance(trainer, pl.Trainer):
            return {}
        return {"rank": trainer.global_rank, "world_size": trainer.world_size}

    def _on_cuda(self) -> bool:
        trainer = self.trainer
        return isinstance(trainer, pl.Trainer) and trainer.strategy.root_device.type == "cuda"

    def _loader(self, sampler: EpochSampler, policy: ImageAugmentation | None) -> DataLoader[Batch]:
        from_host = policy is not None or not self.resident
        workers = self.workers if from_host else 0
        loader = StreamingLoader if not (self.resident or policy or workers) else DataLoader
        return loader(
            FaceDataset(self.faces.images if from_host else None, policy),
            sampler=sampler,
            batch_size=None,  # a BatchRequest is a whole batch
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=from_host and self._on_cuda(),
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Convert positions or uint8 images to the input of a step (`Batch`)."""
        index: Tensor = batch["index"]
        pixels = batch.get("pixels")
        if pixels is None:
            pixels = self._tensor_on(index.device, "images").index_select(0, index)  # copies whole rows, unlike [index]
        image = to_unit_range(pixels)
        label = self._tensor_on(index.device, "labels")[index]
        ready: Batch = {"image": image, "label": label, "index": index, "seed": batch["seed"]}
        if self.trainer is not None and self.trainer.training:
            generator = torch.Generator().manual_seed(batch["seed"])
            if self.batch_policy is not None:
                flipped = {}
                if "flipped" in self._host_tensors:
                    first = self._tensor_on(index.device, "flipped")[index]
                    flipped = {"flipped": first ^ bool(self.trainer.current_epoch % 2)}
                ready["image"] = self.batch_policy(image, generator, **flipped)
            if "targets" in self._host_tensors:
                ready["target"] = self._tensor_on(index.device, "targets")[index]
            if self.mix is not None:
                soft = ready.get("target", F.one_hot(label, len(self.faces.classes)).float())
                ready["image"], ready["target"] = self.mix(ready["image"], soft, generator)
                ready["label"] = ready["target"].argmax(dim=1)  # of the image with the larger weight
        return ready

    def _tensor_on(self, device: torch.device, name: str) -> Tensor:
        """Images, labels, flips or targets on a device, moved there once."""
        tensor = self._device_tensors.get(name)
        if tensor is None or tensor.device != device:
            tensor = self._device_tensors[name] = self._host_tensors[name].to(device)
        return tensor


def _with_vote_targets(faces: FaceArrays, protocol: str) -> FaceArrays:
    """Return the data set with its FER+ votes as soft targets (`data.targets=votes`)."""
    if faces.classes != EMOTIONS:
        raise ValueError(
            f"data.targets=votes is for FER2013's seven classes; under {protocol} leave data.targets=labels"
        )
    if faces.votes is None:
        raise DataError(f"data.targets=votes, but {faces.name} has no votes; give data.votes_path=fer2013new.csv")
    return replace(faces, targets=soft_targets(faces.votes, faces.labels))


def _tensors(faces: FaceArrays) -> dict[str, Tensor]:
    """Return `images`, `labels` and, if it has soft targets, `targets` as tensors that share the memory."""
    arrays = {"images": faces.images, "labels": faces.labels, "targets": faces.targets}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the memory map is read-only, and nothing writes to it
        return {name: torch.from_numpy(array) for name, array in arrays.items() if array is not None}


def to_unit_range(images: Tensor) -> Tensor:
    """Convert uint8 (B, H, W) or (B, H, W, 3) to float32 (B, 1 or 3, H, W) in [0, 1]."""
    channels_first = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return channels_first / 255.0
