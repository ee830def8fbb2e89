"""Folders and archives of images, valid and invalid."""

import os

import numpy as np
import pytest
from helpers.fer2013 import gray_png, kaggle_files, write_files, write_zip
from helpers.images import encoded
from PIL import Image

from fer_lightning.data.arrays import DataError
from fer_lightning.data.sources.image_folder import decode
from fer_lightning.data.sources.readers import read_faces
from fer_lightning.labels import EMOTIONS, USAGES


def by_name(read):
    return {
        name.decode(): (image.flat[0], read.classes[label], usage)
        for name, image, label, usage in zip(read.names, read.images, read.labels, read.usage, strict=True)
    }


def test_a_folder_named_synthetic_is_not_the_synthetic_data_set(tmp_path):
    files = {f"{split}/{name}/1.png": gray_png(9) for split in ("train", "test") for name in ("no", "yes")}
    read = read_faces(write_files(tmp_path / "synthetic", files))
    assert read.name == "folder_synthetic"
    assert not read.is_synthetic


def test_kaggle_layout_as_folder_and_as_zip(tmp_path):
    files = kaggle_files()
    folder = read_faces(write_files(tmp_path / "fer", files))
    archive = read_faces(write_zip(tmp_path / "archive.zip", files))
    wrapped = read_faces(
        write_zip(tmp_path / "b.zip", {f"archive/{k}": v for k, v in files.items()} | {"__MACOSX/._1.png": b"x"})
    )
    assert folder.fingerprint == archive.fingerprint == wrapped.fingerprint
    assert folder.name == archive.name == "fer2013_kaggle"
    assert folder.classes == EMOTIONS
    seen = by_name(folder)
    assert len(seen) == 21
    for code, emotion in enumerate(EMOTIONS):
        assert seen[f"train/{emotion}/Training_{code}.png"] == (code, emotion, "Training")
        assert seen[f"test/{emotion}/PublicTest_{code}.png"] == (10 + code, emotion, "PublicTest")
        assert seen[f"test/{emotion}/PrivateTest_{code}.png"] == (20 + code, emotion, "PrivateTest")


def test_file_names_that_are_not_utf_8_are_read(tmp_path):
    folder = write_files(tmp_path / "fer", kaggle_files())
    first = next((folder / "train").rglob("*.png"))
    first.rename(os.fsdecode(os.fsencode(first.parent) + b"/Training_caf\xe9.png"))
    read = read_faces(folder)
    assert sum("Training_caf?.png" in name for name in by_name(read)) == 1


def test_usage_comes_from_split_folders_if_not_in_file_names(tmp_path):
    aliases = ["Anger", "disgusted", "fearful", "happiness", "sadness", "surprised", "NEUTRAL"]
    files = {f"Train/{name}/im{code}.png": gray_png(code) for code, name in enumerate(aliases)}
    files |= {"VALID/Anger/im9.png": gray_png(9), "test/angry/im8.png": gray_png(8), "test/angry/notes.txt": b"x"}
    read = read_faces(write_files(tmp_path / "fer", files))
    assert read.name == "fer"
    assert read.classes == EMOTIONS
    seen = by_name(read)
    assert [seen[f"Train/{name}/im{code}.png"] for code, name in enumerate(aliases)] == [
        (code, emotion, "Training") for code, emotion in enumerate(EMOTIONS)
    ]
    assert seen["VALID/Anger/im9.png"] == (9, "angry", "PublicTest")
    assert seen["test/angry/im8.png"] == (8, "angry", "PrivateTest")


@pytest.mark.parametrize(
    ("split", "usage"),
    [("training", 0), ("val", 1), ("Validation", 1), ("public_test", 1), ("TEST", 2), ("PrivateTest", 2)],
)
def test_split_names(tmp_path, split, usage):
    read = read_faces(write_files(tmp_path / "set", {f"{split}/a/1.png": gray_png(0)}))
    assert read.usage.tolist() == [USAGES[usage]]


def test_spellings_of_a_class_in_other_splits_are_the_same_class(tmp_path):
    names = ("train/Angry/1.png", "train/Awe/2.png", "test/angry/3.png", "test/awe /4.png")
    read = read_faces(write_files(tmp_path / "set", {name: gray_png(value) for value, name in enumerate(names)}))
    assert read.classes == ("Angry", "Awe")
    assert sorted(read.labels.tolist()) == [0, 0, 1, 1]


def test_other_classes_are_sorted_and_images_converted(tmp_path):
    colours = np.zeros((20, 30, 3), np.uint8)
    colours[..., 0] = 200
    files = {f"train/{code}/a.jpg": encoded(colours, "JPEG", quality=95) for code in (10, 2, 1)}
    files["test/2/b.png"] = gray_png(7, 64)
    folder = write_files(tmp_path / "raf", files)
    read = read_faces(folder, image_size=16, channels=3)
    assert read.classes == ("1", "2", "10")
    assert read.images.shape == (4, 16, 16, 3)
    assert read.name == "raf"
    assert abs(read.images[read.usage == "Training"].astype(int) - [200, 0, 0]).max() < 6
    assert (read.images[read.usage == "PrivateTest"] == 7).all()
    assert read_faces(folder, image_size=16, channels=1).images.shape == (4, 16, 16)


def test_mixed_sizes_or_channels_name_the_setting(tmp_path):
    sizes = write_files(tmp_path / "sizes", {f"train/a/{size}.png": gray_png(0, size) for size in (8, 9)})
    with pytest.raises(
        DataError, match=r"train/a/8\.png is 8x8 pixels and train/a/9\.png is 9x9; set data\.image_size"
    ):
        read_faces(sizes, on_error="skip")
    files = {f"train/a/{code:03}.png": gray_png(0) for code in range(70)}  # several chunks
    mixed = write_files(tmp_path / "mixed", files | {"val/b/1.png": encoded(np.zeros((8, 8, 3), np.uint8))})
    with pytest.raises(DataError, match=r"grayscale and val/b/1\.png is in colour; set data\.channels"):
        read_faces(mixed)


def test_unreadable_images_are_reported_or_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr("fer_lightning.data.sources.image_folder.MAX_PIXELS", 1000)
    noise = np.random.default_rng(0).integers(0, 256, (30, 30), dtype=np.uint8)
    jpeg = encoded(noise, "JPEG")
    files = {
        "train/a/cut.jpg": jpeg[: len(jpeg) // 2],
        "train/a/deep.png": encoded(Image.fromarray(np.zeros((30, 30), np.uint16))),
        "train/a/empty.png": b"",
        "train/a/good.jpg": jpeg,
        "train/a/huge.png": encoded(np.zeros((32, 32), np.uint8)),
        "train/a/text.png": b"this is not an image",
        "elsewhere.png": jpeg,
    }
    for path in (write_files(tmp_path / "set", files), write_zip(tmp_path / "set.zip", files)):
        with pytest.raises(DataError, match=r"6 of 7(?s:.*)and 1 more"):
            read_faces(path)
        read = read_faces(path, on_error="skip")
        assert read.names.tolist() == [b"train/a/good.jpg"]
        problems = "\n".join(read.skipped)
        for expected in (
            "elsewhere.png: it is not in a class folder of train, val or test",
            "train/a/cut.jpg: it cannot be read (image file is truncated",
            "train/a/deep.png: it cannot be read (more than 8 bits per channel",
            "train/a/empty.png: it cannot be read (the file is empty)",
            "train/a/huge.png: it cannot be read (32x32 pixels, at most 1,000 are allowed)",
            "train/a/text.png: it is not an image in a supported format",
        ):
            assert f"{path.name}, {expected}" in problems


def test_a_broken_link_is_one_unreadable_image(tmp_path):
    folder = write_files(tmp_path / "set", {"train/a/1.png": gray_png(0)})
    (folder / "train/a/2.png").symlink_to(tmp_path / "gone.png")
    read = read_faces(folder, on_error="skip")
    assert read.names.tolist() == [b"train/a/1.png"]
    assert "train/a/2.png: it cannot be read" in read.skipped[0]


def test_large_images_are_rejected_before_decoding():
    header = encoded(Image.new("L", (8000, 8000)))
    with pytest.raises(ValueError, match="8000x8000 pixels, at most 50,000,000"):
        decode(header[:200])  # no pixel data: the header is enough


def test_exif_orientation_is_applied():
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
    upright = decode(encoded(image, "JPEG", quality=100, exif=exif))
    assert upright.shape == (16, 8, 3)
    assert upright[:6].min() > 240
    assert upright[10:].max() < 15


def test_two_data_sets_in_one_folder_are_rejected(tmp_path):
    files = {"train/a/1.png": gray_png(0), "images/train/a/1.png": gray_png(0)}
    with pytest.raises(DataError, match=r"more than one set of images, in \./ and images/; set data\.path"):
        read_faces(write_files(tmp_path / "set", files))
