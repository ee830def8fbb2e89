import cv2
import numpy as np
import pytest

from fer_lightning.data.near_duplicates import FLOOR, THRESHOLD, find_near_duplicates
from fer_lightning.data.sources.synthetic import draw_faces

FACES = np.asarray(draw_faces(400, seed=5, image_size=48).images)


def shift_and_scale(image: np.ndarray, right: float, down: float, scale: float = 1.0) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((23.5, 23.5), 0, scale)
    matrix[:, 2] += (right, down)
    return cv2.warpAffine(image, matrix, (48, 48), borderMode=cv2.BORDER_REPLICATE)


def jpeg_compress(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_GRAYSCALE)


CHANGES = {
    "shifted": lambda image: shift_and_scale(image, 2, -1),
    "cropped tighter": lambda image: shift_and_scale(image, 0, 0, 1.15),
    "cropped wider": lambda image: shift_and_scale(image, 1, 1, 0.9),
    "darker": lambda image: (image * 0.6 + 10).astype(np.uint8),
    "compressed": jpeg_compress,
    "scaled": lambda image: cv2.resize(cv2.resize(image, (30, 30), interpolation=cv2.INTER_AREA), (48, 48)),
}


HARD_CHANGES = (CHANGES["shifted"], CHANGES["cropped tighter"])
"""Changes with a recall clearly below 1, as documented in `find_near_duplicates`."""


def found_in(images: np.ndarray) -> set[tuple[int, int]]:
    found = find_near_duplicates(images, np.arange(len(images))).above(THRESHOLD)
    return set(map(tuple, found.pairs.tolist()))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_modified_copies_are_found(change) -> None:
    copies = np.stack([change(image) for image in FACES[:60]])
    found = found_in(np.concatenate([FACES, copies]))
    expected = {(i, len(FACES) + i) for i in range(60)}
    assert len(found & expected) >= (42 if change in HARD_CHANGES else 56)
    assert len(found - expected) <= 2


def test_mirrored_copies_are_found_and_marked() -> None:
    images = np.concatenate([FACES, FACES[:40, :, ::-1]])
    found = find_near_duplicates(images, np.arange(len(images))).above(THRESHOLD)
    mirrored = set(map(tuple, found.pairs[found.mirrored].tolist()))
    assert len(mirrored & {(i, len(FACES) + i) for i in range(40)}) >= 38


def test_pairs_are_sorted_and_unique() -> None:
    images = np.concatenate([FACES, np.stack([shift_and_scale(image, 1, 0) for image in FACES[:50]])])
    found = find_near_duplicates(images, np.arange(len(images)))
    assert (found.pairs[:, 0] < found.pairs[:, 1]).all()
    assert len(np.unique(found.pairs, axis=0)) == len(found.pairs)
    assert (np.diff(found.correlation) <= 0).all()
    assert found.correlation.min() >= FLOOR
    assert set(found.above(0.99).correlation >= 0.99) == {True}


def test_only_the_given_positions_are_compared() -> None:
    images = np.concatenate([FACES, FACES])
    positions = np.concatenate([np.arange(300), [len(FACES) + 7]])
    found = find_near_duplicates(images, positions).above(0.999)
    assert found.pairs.tolist() == [[7, len(FACES) + 7]]


def test_colour_and_size_do_not_matter() -> None:
    large = np.stack([cv2.resize(image, (96, 96)) for image in np.concatenate([FACES[:100], FACES[:5]])])
    colour = np.repeat(large[..., None], 3, axis=3)
    assert {(i, 100 + i) for i in range(5)} <= found_in(colour)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_images(count: int) -> None:
    assert len(find_near_duplicates(FACES, np.arange(count)).above(THRESHOLD).pairs) == 0


def test_pairs_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.concatenate([FACES, np.stack([shift_and_scale(image, 1, 0) for image in FACES[:50]])])
    whole = find_near_duplicates(images, np.arange(len(images)))
    monkeypatch.setattr("fer_lightning.data.near_duplicates._BLOCK", 64)
    blocks = find_near_duplicates(images, np.arange(len(images)))
    assert len(whole.pairs) > 20
    assert np.array_equal(whole.pairs, blocks.pairs)
    assert np.array_equal(whole.correlation, blocks.correlation)
