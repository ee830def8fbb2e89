import pytest
import torch

from fer_lightning.models import tta


def mean_of_left_half(images: torch.Tensor) -> torch.Tensor:
    left = images[..., : images.shape[-1] // 2].mean(dim=(1, 2, 3))
    return torch.stack([left, torch.zeros_like(left)], dim=1)


def test_flip_adds_the_mirror_image() -> None:
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert tta.flip(image)[1].tolist() == [[[[2.0, 1.0], [4.0, 3.0]]]]


def test_shifts_move_the_image_and_repeat_its_edges() -> None:
    image = torch.arange(25.0).view(1, 1, 5, 5)
    views = tta.shifts(image, shift=0.2)
    assert len(views) == 10
    assert torch.equal(views[0], image)
    assert torch.equal(views[2][..., 1:, :], image[..., :-1, :])  # moved down by one
    assert torch.equal(views[2][..., 0, :], image[..., 0, :])
    assert torch.equal(views[8][..., :-1], image[..., 1:])  # moved left by one
    assert torch.equal(views[4][..., :-1, :], image[..., 1:, :])  # up
    assert torch.equal(views[6][..., 1:], image[..., :-1])  # right
    assert all(torch.equal(mirrored, view.flip(-1)) for view, mirrored in zip(views[::2], views[1::2], strict=True))


def test_ten_crop_contains_corners_and_centre() -> None:
    image = torch.arange(36.0).view(1, 1, 6, 6)
    views = tta.ten_crop(image, size=2 / 3)
    assert len(views) == 10
    corners = [v[0, 0, 0, 0].item() for v in views[::2]]
    assert corners == [0, 2, 12, 14, 7]
    assert torch.equal(views[1], views[0].flip(-1))
    assert all(torch.equal(five, ten) for five, ten in zip(tta.five_crop(image, size=2 / 3), views[::2], strict=True))


def test_average_of_probabilities_and_of_logits() -> None:
    views = [torch.full((1, 1, 2, 2), 2.0), torch.zeros(1, 1, 2, 2)]
    logits = [mean_of_left_half(v) for v in views]
    averaged = tta.average_views(mean_of_left_half, views, "probabilities").softmax(dim=1)
    assert torch.allclose(averaged, (logits[0].softmax(1) + logits[1].softmax(1)) / 2)
    averaged = tta.average_views(mean_of_left_half, views, "logits")
    assert torch.allclose(averaged, (logits[0] + logits[1]) / 2)
    with pytest.raises(ValueError, match=r"eval\.average"):
        tta.average_views(mean_of_left_half, views, "votes")


def test_centre_crop_is_the_last_crop_of_ten_crop() -> None:
    image = torch.rand(2, 1, 48, 48)
    (view,) = tta.centre_crop(image, size=0.833)
    assert view.shape == (2, 1, 40, 40)
    assert torch.equal(view, tta.ten_crop(image, size=0.833)[8])


def test_rotations_have_evenly_spaced_angles_and_mirror_images() -> None:
    image = torch.rand(2, 1, 7, 7)
    views = tta.rotations(image, degrees=90, angles=3)
    assert len(views) == 6
    assert torch.allclose(views[0], image.rot90(-1, dims=(2, 3)), atol=1e-5)
    assert torch.allclose(views[2], image, atol=1e-5)
    assert torch.allclose(views[4], image.rot90(1, dims=(2, 3)), atol=1e-5)
    assert torch.equal(views[5], views[4].flip(-1))


def test_a_single_rotation_is_the_identity_and_shifts_must_be_fractions() -> None:
    image = torch.rand(1, 1, 5, 5)
    assert torch.allclose(tta.rotations(image, degrees=30, angles=1)[0], image, atol=1e-6)
    with pytest.raises(ValueError, match="a fraction of the side"):
        tta.shifts(image, 1.5)


def test_rotations_keep_right_angles_in_wide_images() -> None:
    image = torch.zeros(1, 1, 9, 15)
    image[..., 4, 4:11] = 1  # a horizontal line of seven pixels through the centre
    vertical = torch.zeros(1, 1, 9, 15)
    vertical[..., 1:8, 7] = 1
    for view in tta.rotations(image, degrees=90, angles=3)[::4]:
        assert torch.allclose(view, vertical, atol=1e-5)
