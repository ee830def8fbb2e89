import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from fer_lightning.data.arrays import FaceArrays, content_fingerprint
from fer_lightning.data.sources import synthetic
from fer_lightning.data.sources.synthetic import FREQUENCIES, draw_faces, synthetic_faces
from fer_lightning.labels import EMOTIONS, USAGES


@pytest.fixture(scope="module")
def faces() -> FaceArrays:
    return draw_faces(1500)


def test_the_data_set_is_complete(faces):
    assert faces.images.shape == (1500, 48, 48)
    assert faces.images.dtype == np.uint8
    assert faces.labels.dtype == np.int64
    assert faces.classes == EMOTIONS
    assert faces.is_synthetic
    assert (faces.votes.sum(axis=1) == 10).all()
    assert faces.skipped == ()
    assert faces.names[17] == b"synthetic 17"
    assert faces.fingerprint == content_fingerprint(faces.images, faces.labels, faces.usage, faces.classes)


def test_images_differ_and_have_contrast_without_clipping(faces):
    assert len({image.tobytes() for image in faces.images}) == 1500
    assert faces.images.std(axis=(1, 2)).min() > 8
    clipped = np.isin(faces.images, (0, 255)).mean(axis=(1, 2))
    assert np.quantile(clipped, 0.9) < 0.3


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    first, again, other = (draw_faces(100, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.images, again.images)
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    assert not np.array_equal(first.labels, other.labels)


def test_result_does_not_depend_on_the_processes(monkeypatch, tmp_path):
    alone = draw_faces(140, image_size=24)
    monkeypatch.setattr(synthetic, "_IMAGES_PER_PROCESS", 50)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.chdir(tmp_path)
    drawn_here = []
    draw_range = synthetic._draw_range
    monkeypatch.setattr(synthetic, "_draw_range", lambda *args: drawn_here.append(args[-2:]) or draw_range(*args))
    assert draw_faces(140, image_size=24).fingerprint == alone.fingerprint
    assert drawn_here == [(0, 70)]  # the other process drew the rest
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert draw_faces(140, image_size=24).fingerprint == alone.fingerprint
    assert drawn_here[1:] == [(0, 70), (70, 140)]


def test_a_cached_data_set_is_opened_only_for_the_same_arguments(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(synthetic, "_MIN_CACHED_IMAGES", 140)
    drawn = synthetic_faces(140, image_size=24)
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "draw_faces", None)
        again = synthetic_faces(140, image_size=24)
    for name in ("images", "labels", "usage", "names", "votes"):
        np.testing.assert_array_equal(getattr(again, name), getattr(draw_faces(140, image_size=24), name))
    assert again.fingerprint == drawn.fingerprint
    assert synthetic_faces(140, seed=1, image_size=24).fingerprint != drawn.fingerprint
    assert synthetic_faces(139, image_size=24).images.flags.owndata
    assert len(list((tmp_path / "fer_lightning").glob("[!.]*"))) == 2


def test_usage_is_split_80_10_10(faces):
    assert [(faces.usage == usage).sum() for usage in USAGES] == [1200, 150, 150]


def test_classes_are_as_frequent_as_in_fer2013(faces):
    expected = np.array([FREQUENCIES[emotion] for emotion in EMOTIONS]) / sum(FREQUENCIES.values())
    for usage in USAGES:
        counts = np.bincount(faces.labels[faces.usage == usage], minlength=len(EMOTIONS))
        assert np.abs(counts - expected * counts.sum()).max() <= 1
    assert np.bincount(faces.labels).argmin() == EMOTIONS.index("disgust")


@pytest.mark.parametrize("count", [70, 71, 200, 333])
def test_a_small_data_set_has_every_class_in_every_usage(count):
    faces = draw_faces(count, image_size=24)
    assert len(faces) == count
    for usage in USAGES:
        assert set(faces.labels[faces.usage == usage]) == set(range(len(EMOTIONS)))


@pytest.mark.parametrize("image_size", [24, 64, 97])
def test_other_sizes_show_the_same_faces(image_size):
    small, large = draw_faces(70, image_size=48), draw_faces(70, image_size=image_size)
    assert large.images.shape == (70, image_size, image_size)
    np.testing.assert_array_equal(small.labels, large.labels)
    brightness = [images.mean(axis=(1, 2)) for images in (small.images, large.images)]
    assert np.corrcoef(*brightness)[0, 1] > 0.95


def test_a_linear_classifier_fails(faces):
    pixels = faces.images.reshape(len(faces), -1).astype(np.float64)
    train, test = faces.usage == "Training", faces.usage == "PrivateTest"
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=500, tol=1e-2))
    linear.fit(pixels[train], faces.labels[train])
    assert linear.score(pixels[train], faces.labels[train]) > 0.9  # it overfits the training images
    assert linear.score(pixels[test], faces.labels[test]) < 0.7


def test_a_small_cnn_generalises_where_the_linear_classifier_does_not(faces):
    images = F.avg_pool2d(torch.from_numpy(faces.images)[:, None].float() / 255, 2)
    images = (images - images.mean((2, 3), keepdim=True)) / images.std((2, 3), keepdim=True)
    labels, train = torch.from_numpy(faces.labels), torch.from_numpy(faces.usage == "Training")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 3 * 3, len(EMOTIONS)))
        epochs, batches = 8, train.nonzero().flatten()
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=epochs * 24)
        for _ in range(epochs):
            for batch in batches[torch.randperm(len(batches))].split(50):
                optimizer.zero_grad()
                F.cross_entropy(network(images[batch]), labels[batch]).backward()
                optimizer.step()
                schedule.step()
    network.eval()
    with torch.inference_mode():
        correct = network(images[~train]).argmax(1) == labels[~train]
    assert correct.float().mean() > 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 69}, r"data\.count=69 is too few .* use 70 or more"),
        ({"count": 0}, r"data\.count=0 is too few"),
        ({"seed": -1}, r"data\.seed=-1 is negative"),
        ({"image_size": 23}, r"data\.image_size=23 is too small .* use 24 or more"),
        ({"count": 10**8}, r"data\.count=100000000 faces .* would take 214\.6 GiB of memory; the limit is 1 GiB"),
    ],
)
def test_rejects_invalid_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_faces(**arguments)
