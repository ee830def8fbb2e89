"""Image files and arrays become pixels, and pixels the input of a network."""

from pathlib import Path

import numpy as np
import pytest
from helpers.images import encoded, noise
from PIL import Image

from fer_lightning.inference import images
from fer_lightning.inference.images import ImageError, read_image, to_input

NOISE = noise(64, 64, 3)


def test_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    (tmp_path / "large.png").write_bytes(encoded(NOISE))
    with pytest.raises(ImageError, match="more than 100 bytes"):
        read_image(tmp_path / "large.png")


def test_the_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to see it upright
    as_stored = noise(48, 64)
    upright = read_image(encoded(as_stored, exif=exif))
    np.testing.assert_array_equal(upright, np.rot90(as_stored, k=-1))


def test_16_bits_are_scaled_to_8() -> None:
    ramp = np.linspace(0, 65535, 48 * 48).reshape(48, 48).astype(np.uint16)
    np.testing.assert_array_equal(read_image(encoded(ramp)), np.rint(ramp / 257))


def test_cmyk_becomes_rgb() -> None:
    pixels = read_image(encoded(Image.new("CMYK", (48, 48), (0, 255, 255, 0)), "JPEG", quality=100))
    assert pixels.shape == (48, 48, 3)
    np.testing.assert_allclose(pixels.reshape(-1, 3).mean(axis=0), [255, 0, 0], atol=3)


def test_the_first_frame_of_an_animation_is_used() -> None:
    first, second = (Image.new("L", (48, 48), shade) for shade in (40, 200))
    animation = encoded(first, "GIF", save_all=True, append_images=[second])
    assert np.unique(read_image(animation)).tolist() == [40]


def test_transparency_palettes_and_masks_are_read() -> None:
    clear = np.dstack([NOISE, np.zeros((64, 64), np.uint8)])
    np.testing.assert_array_equal(read_image(encoded(clear)), NOISE)
    palette = Image.fromarray(NOISE).quantize(16)
    np.testing.assert_array_equal(read_image(palette), np.asarray(palette.convert("RGB")))
    mask = Image.fromarray(NOISE[..., 0] > 127)
    assert set(np.unique(read_image(mask))) == {0, 255}


def test_gray_follows_bt601() -> None:
    for colour, weight in zip(np.eye(3, dtype=np.uint8) * 255, (0.299, 0.587, 0.114), strict=True):
        gray = to_input(np.broadcast_to(colour, (50, 70, 3)).astype(np.uint8), 48, 1)
        assert gray.shape == (1, 48, 48)
        np.testing.assert_allclose(gray, weight, atol=1e-6)
    assert to_input(NOISE[..., 0], 48, 3).shape == (3, 48, 48)
