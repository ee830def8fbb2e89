"""BatchedAugmentation: each operation against a slow reference that transforms one image step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from fer_lightning.data.augmentation.batched import BatchedAugmentation, _sampled, _sampled_by_clamping
from fer_lightning.data.augmentation.per_image import ImageAugmentation

STRONG = {
    "flip": 0.5,
    "rotation": 30.0,
    "shift": 0.2,
    "zoom": 0.3,
    "shear": 20.0,
    "crop": 0.1,
    "brightness": 0.4,
    "contrast": 0.5,
    "gamma": 0.5,
    "erasing": 0.7,
}
OFF = dict.fromkeys(STRONG, 0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int = 6, channels: int = 1, height: int = 20, width: int = 28) -> torch.Tensor:
    return torch.rand(count, channels, height, width, generator=seeded(99))


def reference_warp(image: np.ndarray, draw: dict[str, float]) -> np.ndarray:
    """Transforms one (C, H, W) image: multiplies the forward matrices of all steps in pixels, inverts and samples."""
    height, width = image.shape[1:]
    cos, sin = math.cos(draw["rotation"]), math.sin(draw["rotation"])
    left, right = draw["left"] * width, (1 - draw["right"]) * width
    top, bottom = draw["top"] * height, (1 - draw["bottom"]) * height
    about_centre = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]])
    steps = [
        np.diag([1 - 2 * draw["flip"], 1, 1]),
        np.diag([draw["zoom"], draw["zoom"], 1]),
        np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]),
        np.array([[1, math.tan(draw["shear"]), 0], [0, 1, 0], [0, 0, 1]]),
        np.array([[1, 0, draw["shift_x"] * width], [0, 1, draw["shift_y"] * height], [0, 0, 1]]),
    ]
    forward = np.linalg.inv(about_centre)
    for step in steps:
        forward = step @ forward
    crop = np.diag([width / (right - left), height / (bottom - top), 1]) @ np.array(
        [[1, 0, -left], [0, 1, -top], [0, 0, 1]]
    )
    backward = np.linalg.inv(crop @ about_centre @ forward)
    y, x = np.mgrid[:height, :width] + 0.5
    source_x, source_y, _ = np.tensordot(backward, np.stack([x, y, np.ones_like(x)]), axes=1)
    return np.stack(
        [map_coordinates(channel, [source_y - 0.5, source_x - 0.5], order=1, mode="nearest") for channel in image]
    )


def reference(images: torch.Tensor, augmentation: BatchedAugmentation, seed: int) -> torch.Tensor:
    draws = augmentation.draw(len(images), seeded(seed), images.device)
    results = []
    for i, image in enumerate(images.double().numpy()):
        draw = {name: float(values[i]) for name, values in draws.items()}
        out = reference_warp(image, draw)
        height, width = out.shape[1:]
        luma = out[0] if len(out) == 1 else 0.299 * out[0] + 0.587 * out[1] + 0.114 * out[2]
        out = luma.mean() + draw["contrast"] * (out - luma.mean())
        out = np.clip(out * draw["brightness"], 0, 1) ** draw["gamma"]
        if draw["erasing"]:
            rows, columns = int(draw["height"] * height), int(draw["width"] * width)
            first_row = int(draw["y"] * (height - rows + 1))
            first_column = int(draw["x"] * (width - columns + 1))
            out[:, first_row : first_row + rows, first_column : first_column + columns] = 128 / 255
        results.append(out)
    return torch.from_numpy(np.stack(results)).float()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "names",
    [*((name,) for name in STRONG), tuple(STRONG)],
    ids=lambda names: "all" if len(names) > 1 else names[0],
)
def test_matches_the_reference(names, channels):
    augmentation = BatchedAugmentation(**OFF | {name: STRONG[name] for name in names})
    images = random_images(channels=channels)
    out = augmentation(images, seeded(5))
    assert not torch.allclose(out, images, atol=0.05), "the draw must change the images"
    torch.testing.assert_close(out, reference(images, augmentation, seed=5), atol=2e-4, rtol=0)


def test_flip_shift_and_border_by_hand():
    row = torch.tensor([0.0, 0.1, 0.2, 0.3]).expand(1, 1, 4, 4)
    flipped = BatchedAugmentation(**OFF | {"flip": 1.0})(row, seeded())
    torch.testing.assert_close(flipped, row.flip(-1))

    shifting = BatchedAugmentation(**OFF | {"shift": 1.0})
    quarter = {"shift_x": torch.tensor([0.25])}
    shifting.draw = lambda *arguments: BatchedAugmentation(**OFF).draw(*arguments) | quarter
    # A quarter of the width to the right; the border is padded with its outermost pixel.
    torch.testing.assert_close(shifting(row, seeded()), torch.tensor([0.0, 0.0, 0.1, 0.2]).expand(1, 1, 4, 4))


def test_zero_strengths_leave_images_unchanged():
    images = random_images()
    out = BatchedAugmentation(**OFF)(images, seeded())
    assert torch.equal(out, images)
    assert out.data_ptr() != images.data_ptr()


def test_draws_cover_their_ranges():
    draws = BatchedAugmentation(**STRONG).draw(20_000, seeded(), torch.device("cpu"))
    for name, low, high in [
        ("rotation", -math.radians(30), math.radians(30)),
        ("shear", -math.radians(20), math.radians(20)),
        ("shift_x", -0.2, 0.2),
        ("shift_y", -0.2, 0.2),
        ("zoom", 0.7, 1.3),
        ("left", 0, 0.1),
        ("bottom", 0, 0.1),
        ("brightness", 0.6, 1.4),
        ("contrast", 0.5, 1.5),
        ("height", 0.1, 0.4),
    ]:
        values = draws[name]
        assert low <= values.min() < low + 0.01 * (high - low), name
        assert high - 0.01 * (high - low) < values.max() <= high, name
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low)), name
    assert draws["gamma"].log().abs().max() == pytest.approx(math.log(1.5), abs=0.01)
    assert draws["flip"].mean() == pytest.approx(0.5, abs=0.02)
    assert draws["erasing"].mean() == pytest.approx(0.7, abs=0.02)
    together = torch.corrcoef(torch.stack(list(draws.values())))
    assert (together - torch.eye(len(draws))).abs().max() < 0.05, "draws are independent"


def test_noise_has_the_given_standard_deviation():
    gray = torch.full((8, 1, 40, 40), 0.5)
    noise = BatchedAugmentation(**OFF, noise=0.1)(gray, seeded()) - gray
    assert noise.std() == pytest.approx(0.1, rel=0.03)
    assert noise.mean() == pytest.approx(0, abs=0.005)


def test_draws_differ_per_image_and_repeat_with_the_seed():
    images = random_images(1).expand(8, -1, -1, -1)
    augmentation = BatchedAugmentation(**STRONG, noise=0.02)
    first, again, other = (augmentation(images, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({image.numpy().tobytes() for image in first}) == 8


@pytest.mark.parametrize("size", [20, 224])
def test_half_precision_and_autocast_do_not_move_pixels(size):
    smooth = torch.linspace(0, 1, size).expand(4, 3, size, size).contiguous()
    augmentation = BatchedAugmentation(**STRONG)
    exact = augmentation(smooth, seeded(3))
    half = augmentation(smooth.bfloat16(), seeded(3))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.02, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(augmentation(smooth, seeded(3)), exact)


def test_preserves_memory_format_range_and_input():
    images = random_images(channels=3).to(memory_format=torch.channels_last)
    before = images.clone()
    augmentation = BatchedAugmentation(**STRONG, noise=0.5)
    out = augmentation(images, seeded())
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(images, before)
    torch.testing.assert_close(out, augmentation(images.contiguous(), seeded()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cpu_generator_gives_the_same_draws_on_a_gpu():
    images = random_images(channels=3)
    augmentation = BatchedAugmentation(**STRONG)
    on_gpu = augmentation(images.cuda(), seeded())
    torch.testing.assert_close(on_gpu.cpu(), augmentation(images, seeded()), atol=1e-4, rtol=0)
    assert augmentation(images.cuda(), torch.Generator("cuda").manual_seed(0)).is_cuda


@pytest.mark.parametrize(("name", "value"), [("flip", 1.1), ("crop", 0.5), ("zoom", 1.0), ("rotation", -5)])
@pytest.mark.parametrize("augmentation", [ImageAugmentation, BatchedAugmentation])
def test_rejects_an_invalid_strength(augmentation, name, value):
    with pytest.raises(ValueError, match=rf"augmentation\.policy\.{name} must lie between 0 and .*, got {value}"):
        augmentation(**{name: value})


def test_view_is_a_crop_without_resizing():
    images = random_images(count=64, height=12, width=12)
    views = BatchedAugmentation(**OFF | {"view": 0.75})(images, seeded(3))
    assert views.shape == (64, 1, 9, 9)
    positions = set()
    for image, view in zip(images[:, 0], views[:, 0], strict=True):
        windows = image.unfold(0, 9, 1).unfold(1, 9, 1)
        found = (windows - view).abs().amax(dim=(2, 3)) < 1e-5
        assert found.sum() == 1
        positions.add(tuple(found.nonzero()[0].tolist()))
    assert len(positions) == 16, "every position is drawn"


def test_view_is_a_crop_of_the_transformed_image():
    policy = OFF | {"rotation": 20.0, "flip": 0.5}
    images = random_images(count=8, height=12, width=16)
    whole = BatchedAugmentation(**policy)(images, seeded(1))
    views = BatchedAugmentation(**policy, view=0.5)(images, seeded(1))
    for image, view in zip(whole[:, 0], views[:, 0], strict=True):
        assert ((image.unfold(0, 6, 1).unfold(1, 8, 1) - view).abs().amax(dim=(2, 3)) < 1e-5).any()


def test_view_of_the_largest_draw_is_inside_the_image(monkeypatch):
    images = random_images(height=48, width=48)
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, 1 - 2**-24))
    views = BatchedAugmentation(**OFF | {"view": 0.833})(images, seeded())
    torch.testing.assert_close(views, images[..., 8:, 8:])


@pytest.mark.parametrize("view", [0.0, -1.0, 1.1])
def test_rejects_an_invalid_view(view):
    with pytest.raises(ValueError, match=r"augmentation\.policy\.view"):
        BatchedAugmentation(view=view)


def test_what_apples_gpus_cannot_is_done_by_clamping() -> None:
    generator = torch.Generator().manual_seed(0)
    images, grid = torch.rand(8, 3, 6, 9, generator=generator), torch.rand(8, 12, 11, 2, generator=generator) * 4 - 2
    torch.testing.assert_close(_sampled_by_clamping(images, grid), _sampled(images, grid))
