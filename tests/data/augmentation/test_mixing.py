"""MixUp and CutMix: images and targets are mixed with the same weight."""

from __future__ import annotations

import pytest
import torch

from fer_lightning.data.augmentation.mixing import CutMix, MixUp

CLASSES = 7


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat_batch(height: int = 12, width: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i has the value i everywhere and the class i, so that the origin of every pixel is known."""
    values = torch.arange(CLASSES, dtype=torch.float32)
    return values.view(-1, 1, 1, 1).expand(-1, 3, height, width).clone(), torch.eye(CLASSES)


@pytest.mark.parametrize("seed", range(5))
def test_mixup_blends_images_and_targets_with_the_same_lambda(seed):
    images, targets = flat_batch()
    mixed, soft = MixUp(1.0)(images, targets, seeded(seed))

    torch.testing.assert_close(soft.sum(dim=1), torch.ones(CLASSES))
    # The value of each mixed image must be the mean class number under its target.
    torch.testing.assert_close(mixed, (soft @ torch.arange(7.0)).view(-1, 1, 1, 1).expand_as(mixed))
    lambdas = {round(float(row[i]), 5) for i, row in enumerate(soft) if row[i] < 0.9999}
    assert len(lambdas) <= 1, "one lambda per batch"

    mixed, soft = MixUp(1.0, per_image=True)(images, targets, seeded(seed))
    torch.testing.assert_close(mixed, (soft @ torch.arange(7.0)).view(-1, 1, 1, 1).expand_as(mixed))
    moved = [round(float(row[i]), 5) for i, row in enumerate(soft) if row[i] < 0.9999]
    assert len(set(moved)) == len(moved) > 1, "one lambda per image"


def test_mixup_samples_lambda_from_beta():
    images, targets = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.eye(2)
    generator = seeded()
    lambdas = []
    for _ in range(4000):
        mixed, _ = MixUp(0.4)(images, targets, generator)
        if mixed[0] != 0 or mixed[1] != 1:  # paired with the other image
            lambdas.append(float(mixed[1]))
    lambdas = torch.tensor(lambdas)
    assert lambdas.mean() == pytest.approx(0.5, abs=0.03)
    assert lambdas.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)  # Var Beta(a, a) = 1 / (4 (2a + 1))


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_cutmix_mixes_targets_by_the_pasted_area(seed, per_image):
    images, targets = flat_batch()
    mixed, soft = CutMix(1.0, per_image)(images, targets, seeded(seed))

    for i in range(CLASSES):
        for j in range(CLASSES):
            pixel_fraction = (mixed[i, 0] == j).float().mean()
            assert soft[i, j] == pytest.approx(pixel_fraction.item(), abs=1e-6)
    assert (mixed == mixed[:, :1]).all(), "all channels of a pixel come from one image"


@pytest.mark.parametrize("per_image", [False, True])
def test_cutmix_pastes_one_rectangle_at_the_same_position(per_image):
    images = torch.rand(CLASSES, 1, 12, 10, generator=seeded(1))
    mixed, _ = CutMix(1.0, per_image)(images, torch.eye(CLASSES), seeded(4))
    pasted = (mixed != images)[:, 0]
    assert (len({tuple(mask.flatten().tolist()) for mask in pasted if mask.any()}) > 1) == per_image
    moved = pasted.any(dim=(1, 2))
    assert moved.any()
    for own, changed in zip(mixed[moved, 0], pasted[moved], strict=True):
        rows, columns = changed.any(dim=1).nonzero(), changed.any(dim=0).nonzero()
        assert changed.sum() == len(rows) * len(columns)
        assert len(rows) == rows[-1] - rows[0] + 1
        assert any(torch.equal(own[changed], other[changed]) for other in images[:, 0])


@pytest.mark.parametrize("mix", [MixUp(0.2), CutMix(1.0), MixUp(0.2, per_image=True), CutMix(1.0, per_image=True)])
def test_reproducible_with_the_generator_and_input_unchanged(mix):
    images, targets = flat_batch()
    before = images.clone()
    first, again, other = (mix(images, targets, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert torch.equal(images, before)
    assert mix(images.bfloat16(), targets, seeded())[0].dtype == torch.bfloat16


@pytest.mark.parametrize("mix", [MixUp, CutMix])
@pytest.mark.parametrize("alpha", [0, -1.0, float("nan")])
def test_rejects_an_invalid_alpha(mix, alpha):
    with pytest.raises(ValueError, match=r"augmentation\.mix\.alpha must be above 0"):
        mix(alpha)


def test_cutmix_area_is_1_minus_lambda_around_random_centres() -> None:
    images, targets = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 64, 64).clone(), torch.eye(2)
    generator = seeded()
    inside_areas, frequency = [], torch.zeros(64, 64)
    for _ in range(3000):
        mixed, _ = CutMix(1.0)(images, targets, generator)
        pasted = mixed[0, 0] == 1
        frequency += pasted
        inside = not (pasted[0].any() or pasted[-1].any() or pasted[:, 0].any() or pasted[:, -1].any())
        if pasted.any() and inside:
            inside_areas.append(pasted.float().mean().item())
    # The area is uniform, and a square of area a is inside the image with probability (1 - sqrt(a))^2.
    expected = (1 / 2 - 4 / 5 + 1 / 3) / (1 - 4 / 3 + 1 / 2)
    assert sum(inside_areas) / len(inside_areas) == pytest.approx(expected, abs=0.03)  # sides are rounded down to even
    corners, centre = frequency[[0, 0, -1, -1], [0, -1, 0, -1]].mean(), frequency[32, 32]
    assert 0.1 < corners / centre < 0.6, "centres of rectangles are uniform over the image"
