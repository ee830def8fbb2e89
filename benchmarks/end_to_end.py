"""How many images per second does a training process, compared to the usual pipeline of single PIL images?

Ours is the resident set with `augmentation=batched_standard`; the usual pipeline is a Dataset that converts an array to
a PIL image and applies torchvision's transforms of the same strengths, and a DataLoader with two workers. Network,
loss, optimizer, precision and memory format are the same. The two are measured alternately; the table shows medians and
the median of the ratios of neighbouring rounds. Timing starts after the first batch, so that starting workers does not
count.

    python benchmarks/end_to_end.py --out benchmarks/results/end_to_end.json
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator

import torch
from harness import finish, interleave, new_parser, ratios
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from training_step import DEVICE, Step, batches, config_of, data_of, rate

from fer_lightning.data.datamodule import Batch
from fer_lightning.data.protocols.standard import official
from fer_lightning.data.sources.synthetic import draw_faces


class SingleImages(Dataset):
    """The dataset class of most FER2013 trainings."""

    def __init__(self, images: NDArray, labels: NDArray, policy: DictConfig) -> None:
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(policy.flip),
                transforms.RandomAffine(
                    policy.rotation,
                    translate=(policy.shift, policy.shift),
                    scale=(1 - policy.zoom, 1 + policy.zoom),
                    interpolation=transforms.InterpolationMode.BILINEAR,
                ),
                transforms.ColorJitter(brightness=policy.brightness, contrast=policy.contrast),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def usual_batches(loader: DataLoader) -> Iterator[Batch]:
    while True:
        for image, label in loader:
            yield {"image": image.to(DEVICE, non_blocking=True), "label": label.to(DEVICE, non_blocking=True)}


def rate_after_first_batch(source: Iterator[Batch], steps: int, step: Step) -> float:
    """Return the images per second over the given number of steps after the first."""
    step(next(source))
    return rate(source, steps, step)


def measure(model: str, options: argparse.Namespace) -> dict[str, object]:
    config = config_of("data=synthetic", f"model={model}", "augmentation=batched_standard")
    faces = draw_faces(options.images)
    split = official(faces)
    datamodule = data_of(config, faces, split, resident=True)
    train = split.indices["train"]
    loader = DataLoader(
        SingleImages(faces.images[train], faces.labels[train], config.augmentation.policy),
        batch_size=config.trainer.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        pin_memory=DEVICE.type == "cuda",
        persistent_workers=options.workers > 0,
    )
    step = Step(config, datamodule)
    sides = {
        "usual": lambda: rate_after_first_batch(usual_batches(loader), options.steps, step),
        "ours": lambda: rate_after_first_batch(batches(datamodule), options.steps, step),
    }
    rates = interleave(sides, options.rounds, warm_up=1)
    return {
        "usual_images_per_second": round(statistics.median(rates["usual"]), 1),
        "ours_images_per_second": round(statistics.median(rates["ours"]), 1),
        "ratio": round(statistics.median(ratios(rates["ours"], rates["usual"])), 3),
        "batch_size": config.trainer.batch_size,
        "precision": step.precision,
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["custom_cnn", "sequential_cnn"])
    parser.add_argument("--images", type=int, default=6000, help="synthetic images, four fifths for training")
    parser.add_argument("--workers", type=int, default=2, help="of the usual pipeline")
    parser.add_argument("--steps", type=int, default=60, help="per round; fewer than an epoch has")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    result = {
        "device": DEVICE.type,
        "workers_of_the_usual_pipeline": options.workers,
        "rounds": options.rounds,
        "models": {model: measure(model, options) for model in options.models},
    }
    finish("end_to_end", __doc__, result, options.out)


if __name__ == "__main__":
    main()
