"""How fast is each augmentation library on one core, and how long is the input pipeline relative to a training step?

    pip install -e '.[benchmark]'
    python benchmarks/augmentation.py [--size 48] [--channels 1] --out benchmarks/results/augmentation.json

The policy is `augmentation=standard`: flip, rotation, shift, zoom, brightness and contrast, sampled per image. The
implementations are measured alternately, so that load on the machine affects all of them equally; medians are compared.
torchvision on a whole batch is omitted, since it samples once per batch.

The share is that of the whole input pipeline (gathering, conversion to float, augmentation) relative to forward,
backward and update of the three-block CNN on the same batches, with the number of threads of a training.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np
import torch
from harness import finish, interleave, new_parser, ratios, seconds_of
from omegaconf import OmegaConf
from training_step import Step, batches, config_of, data_of

from fer_lightning.config import CONF
from fer_lightning.data.augmentation.batched import BatchedAugmentation
from fer_lightning.data.augmentation.per_image import ImageAugmentation
from fer_lightning.data.protocols.standard import official
from fer_lightning.data.sources.synthetic import draw_faces

POLICY = CONF / "augmentation" / "standard.yaml"
BATCHES_PER_TURN = 4
WARM_UP = 5  # steps


def torchvision_per_image(policy: dict[str, float], images: np.ndarray) -> Callable[[], object]:
    from torchvision.transforms import v2

    pipeline = v2.Compose(
        [
            v2.RandomHorizontalFlip(policy["flip"]),
            v2.RandomAffine(
                degrees=policy["rotation"],
                translate=(policy["shift"], policy["shift"]),
                scale=(1 - policy["zoom"], 1 + policy["zoom"]),
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.ColorJitter(brightness=policy["brightness"], contrast=policy["contrast"]),
        ]
    )
    tensors = torch.from_numpy(images if images.ndim == 4 else images[..., None]).permute(0, 3, 1, 2)
    return lambda: [pipeline(tensor) for tensor in tensors]


def albumentations_per_image(policy: dict[str, float], images: np.ndarray) -> Callable[[], object]:
    pipeline = A.Compose(
        [
            A.HorizontalFlip(p=policy["flip"]),
            A.Affine(
                rotate=(-policy["rotation"], policy["rotation"]),
                translate_percent=(-policy["shift"], policy["shift"]),
                scale=(1 - policy["zoom"], 1 + policy["zoom"]),
                keep_ratio=True,
                border_mode=cv2.BORDER_REPLICATE,
                p=1,
            ),
            A.ColorJitter(
                brightness=(1 - policy["brightness"], 1 + policy["brightness"]),
                contrast=(1 - policy["contrast"], 1 + policy["contrast"]),
                saturation=(1, 1),
                hue=(0, 0),
                p=1,
            ),
        ]
    )
    return lambda: [pipeline(image=image)["image"] for image in images]


def image_augmentation(policy: dict[str, float], images: np.ndarray) -> Callable[[], object]:
    augmentation = ImageAugmentation(**policy)
    return lambda: augmentation(images)


def batched_augmentation(policy: dict[str, float], images: np.ndarray) -> Callable[[], object]:
    augmentation, generator = BatchedAugmentation(**policy), torch.Generator().manual_seed(0)
    tensors = torch.from_numpy(images if images.ndim == 4 else images[..., None]).permute(0, 3, 1, 2)
    return lambda: augmentation(tensors.float() / 255, generator)  # from uint8, as the others


def kornia_batched(policy: dict[str, float], images: np.ndarray) -> Callable[[], object]:
    import kornia.augmentation as K

    pipeline = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=policy["flip"]),
        K.RandomAffine(
            degrees=policy["rotation"],
            translate=(policy["shift"], policy["shift"]),
            scale=(1 - policy["zoom"], 1 + policy["zoom"]),
            padding_mode="border",
            p=1.0,
        ),
        K.ColorJitter(brightness=policy["brightness"], contrast=policy["contrast"], p=1.0),
    )
    tensors = torch.from_numpy(images if images.ndim == 4 else images[..., None]).permute(0, 3, 1, 2)
    return lambda: pipeline(tensors.float() / 255)


def share_of_step(steps: int) -> dict[str, object]:
    """Measure the input pipeline and the training step on its batches alternately, in milliseconds."""
    config = config_of("data=synthetic", "model=custom_cnn", "augmentation=batched_standard")
    faces = draw_faces(2000)
    datamodule = data_of(config, faces, official(faces), resident=True)
    step, source = Step(config, datamodule), batches(datamodule)
    pairs = []
    for number in range(steps + WARM_UP):
        start = time.perf_counter()
        batch = next(source)
        loaded = time.perf_counter()
        step(batch)
        if number >= WARM_UP:
            pairs.append((loaded - start, time.perf_counter() - loaded))
    return {
        "model": "custom_cnn",
        "batch_size": config.trainer.batch_size,
        "precision": step.precision,
        "threads": torch.get_num_threads(),
        "steps": steps,
        "input_pipeline_ms": round(1000 * statistics.median(pipeline for pipeline, _ in pairs), 3),
        "training_step_ms": round(1000 * statistics.median(training for _, training in pairs), 3),
        "share": round(statistics.median(pipeline / training for pipeline, training in pairs), 5),
    }


def images_per_second(augment: Callable[[], object], images: int) -> float:
    """Measure one turn, in which each call augments the given number of images."""

    def turn() -> None:
        for _ in range(BATCHES_PER_TURN):
            augment()

    return BATCHES_PER_TURN * images / seconds_of(turn)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--size", type=int, default=48, help="pixels per side")
    parser.add_argument("--channels", type=int, default=1, choices=(1, 3))
    parser.add_argument("--batch", type=int, default=128, help="images per batch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=100, help="training steps that the input pipeline is compared to")
    options = parser.parse_args()
    share = share_of_step(options.steps)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    policy = OmegaConf.to_container(OmegaConf.load(POLICY).policy)
    del policy["_target_"]
    shape = (options.batch, options.size, options.size) + ((3,) if options.channels == 3 else ())
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = np.stack([cv2.GaussianBlur(image, (7, 7), 0) for image in noise])
    builders = {
        "torchvision v2 per image": torchvision_per_image,
        "albumentations per image": albumentations_per_image,
        "ImageAugmentation": image_augmentation,
        "BatchedAugmentation": batched_augmentation,
    }
    if importlib.util.find_spec("kornia"):
        builders["kornia per batch"] = kornia_batched
    else:
        print("kornia is not installed: skipped")

    implementations = {name: build(policy, images) for name, build in builders.items()}
    turns = {name: partial(images_per_second, augment, options.batch) for name, augment in implementations.items()}
    rates = interleave(turns, options.rounds, warm_up=1)
    reference = rates["albumentations per image"]
    result = {
        "policy": policy,
        "size": options.size,
        "channels": options.channels,
        "batch": options.batch,
        "rounds": options.rounds,
        "images_per_second": {name: round(statistics.median(row), 1) for name, row in rates.items()},
        "ratio_to_albumentations": {
            name: round(statistics.median(ratios(row, reference)), 3) for name, row in rates.items()
        },
        "share_of_a_training_step": share,
    }
    finish("augmentation", __doc__, result, options.out)


if __name__ == "__main__":
    main()
