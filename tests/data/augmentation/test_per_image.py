"""ImageAugmentation, and the equivalence of both implementations of a policy."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from fer_lightning.config import CONF
from fer_lightning.data.augmentation.batched import BatchedAugmentation
from fer_lightning.data.augmentation.mixing import CutMix, MixUp
from fer_lightning.data.augmentation.per_image import ImageAugmentation

OFF = {"flip": 0.0, "rotation": 0.0}
STRONG = {
    "flip": 0.5,
    "rotation": 15.0,
    "shift": 0.15,
    "zoom": 0.15,
    "brightness": 0.2,
    "contrast": 0.3,
    "crop": 0.05,
    "erasing": 0.5,
}


def random_images(count: int = 6, shape: tuple[int, ...] = (48, 48)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def smooth_face(size: int = 48) -> np.ndarray:
    """A smooth mid-gray image that is not symmetric."""
    y, x = np.mgrid[:size, :size] / size
    return (128 + 50 * np.sin(5 * x + 1) * np.cos(4 * y)).astype(np.uint8)


def compose_augmentation(option: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(overrides=[f"+augmentation={option}"])
    return OmegaConf.to_container(config.augmentation, resolve=True)


@pytest.mark.parametrize("shape", [(48, 48), (48, 48, 3), (224, 240), (240, 224, 3)])
def test_any_size_in_gray_and_colour(shape):
    images = random_images(3, shape)
    before = images.copy()
    augmentation = ImageAugmentation(**STRONG)
    out = augmentation(images)
    assert (out.shape, out.dtype) == (images.shape, np.uint8)
    assert not np.array_equal(out, images)
    assert np.array_equal(images, before)
    images.flags.writeable = False  # like a memory-mapped data set
    augmentation(images)


def test_gray_stays_gray_in_colour():
    """A gray image repeated to three channels is transformed like the gray one."""
    gray, colour = ImageAugmentation(**STRONG), ImageAugmentation(**STRONG)
    images = np.stack([smooth_face()] * 4)
    out = colour(np.repeat(images[..., None], 3, axis=-1))
    np.testing.assert_allclose(out[..., 0].astype(int), gray(images).astype(int), atol=1)
    assert (out == out[..., :1]).all()


def test_draws_differ_per_image_and_repeat_with_the_seed():
    images = np.stack([smooth_face()] * 8)
    augmentation = ImageAugmentation(**STRONG)
    first = augmentation(images)
    assert len({image.tobytes() for image in first}) == 8
    assert not np.array_equal(augmentation(images), first)
    augmentation.reseed(0)  # the initial seed
    assert np.array_equal(augmentation(images), first)
    augmentation.reseed(1)
    assert not np.array_equal(augmentation(images), first)


def test_a_pickled_copy_continues_with_the_same_draws():
    images = np.stack([smooth_face()] * 4)
    augmentation = ImageAugmentation(**STRONG)
    augmentation(images)
    copy = pickle.loads(pickle.dumps(augmentation))
    assert np.array_equal(copy(images), augmentation(images))
    copy.reseed(7)
    augmentation.reseed(7)
    assert np.array_equal(copy(images), augmentation(images))


def test_transforms_draw_independently():
    """Albumentations seeds all its transforms alike; an image would be erased exactly when it is flipped."""
    ramp = np.tile(np.arange(40, dtype=np.uint8), (40, 1))
    out = ImageAugmentation(**OFF | {"flip": 0.5, "erasing": 0.5})(np.stack([ramp] * 400))
    flipped = out[:, 0, 0] > out[:, 0, -1]
    erased = (out == 128).any(axis=(1, 2))
    counts = np.histogram2d(flipped, erased, bins=2)[0]
    assert counts.min() > 70, "of 100 expected in each of the four combinations"


def test_values_by_hand():
    images = smooth_face()[None]
    assert np.array_equal(ImageAugmentation(**OFF)(images), images)
    assert np.array_equal(ImageAugmentation(**OFF | {"flip": 1.0})(images), images[:, :, ::-1])

    flat = np.full((200, 8, 8), 100, dtype=np.uint8)
    bright = ImageAugmentation(**OFF, brightness=0.2)(flat)
    assert np.ptp(bright, axis=(1, 2)).max() == 0
    assert 80 <= bright.min() <= 81
    assert 119 <= bright.max() <= 120
    assert np.abs(ImageAugmentation(**OFF, contrast=0.5)(flat).astype(int) - 100).max() <= 1

    mean = smooth_face().mean()
    contrasted = ImageAugmentation(**OFF, contrast=0.5)(np.stack([smooth_face()] * 100)).astype(float)
    assert np.abs(contrasted.mean(axis=(1, 2)) - mean).max() < 1
    spread = contrasted.std(axis=(1, 2)) / smooth_face().std()
    assert 0.48 < spread.min() < 0.55
    assert 1.45 < spread.max() < 1.52


def test_no_black_corners():
    white = np.full((50, 48, 48), 200, dtype=np.uint8)
    out = ImageAugmentation(flip=0.5, rotation=45, shift=0.3, zoom=0.3, crop=0.1)(white)
    assert (out == 200).all()


@pytest.mark.parametrize("policy", [{name: value} for name, value in STRONG.items()] + [STRONG], ids=str)
def test_both_implementations_have_the_same_distribution(policy):
    """Over many draws on one face, the mean image and its standard deviation agree."""
    count = 1500
    faces = np.stack([smooth_face()] * count)
    per_image = ImageAugmentation(**OFF | policy)(faces) / 255
    batch = torch.from_numpy(faces)[:, None].float() / 255
    batched = BatchedAugmentation(**OFF | policy)(batch, torch.Generator().manual_seed(0))[:, 0].numpy()
    np.testing.assert_allclose(per_image.mean(axis=0), batched.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(per_image.std(axis=0), batched.std(axis=0), atol=0.02)


@pytest.mark.parametrize("strength", ["light", "standard", "strong"])
def test_per_image_and_batched_configs_agree(strength):
    per_image, batched = compose_augmentation(strength), compose_augmentation(f"batched_{strength}")
    shared = dict(per_image["policy"])
    assert shared.pop("_target_").endswith("ImageAugmentation")
    assert batched["policy"].pop("_target_").endswith("BatchedAugmentation")
    extra = {name: value for name, value in batched["policy"].items() if name not in shared}
    assert batched["policy"] == shared | extra
    assert extra == {"shear": 0.0, "gamma": 0.0, "noise": 0.0, "view": 1.0}  # neutral values
    assert per_image["mix"] is None
    assert batched["mix"] is None


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "augmentation").glob("*.yaml")))
def test_every_option_builds_and_runs(option):
    config = compose_augmentation(option)
    assert set(config) == {"policy", "mix"}
    policy, mix = instantiate(config["policy"]), instantiate(config["mix"])
    generator = torch.Generator().manual_seed(0)
    if isinstance(policy, ImageAugmentation):
        assert policy(random_images()).shape == (6, 48, 48)
    elif policy is not None:
        assert isinstance(policy, BatchedAugmentation)
        assert policy(torch.rand(6, 1, 48, 48), generator).shape == (6, 1, 48, 48)
    if mix is not None:
        assert isinstance(mix, MixUp | CutMix)
        assert mix(torch.rand(6, 1, 48, 48), torch.eye(6), generator)[1].shape == (6, 6)
