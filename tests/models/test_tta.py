import pytest
import torch

from fer_lightning.models import tta


def mean_of_left_half(images: torch.Tensor) -> torch.Tensor:
    left = images[..., : images.shape[-1] // 2].mean(dim=(1, 2, 3))
    return torch.stack([left, torch.zeros_like(left)], dim=1)


def test_flip_shows_the_mirror_image() -> None:
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert tta.flip(image)[1].tolist() == [[[[2.0, 1.0], [4.0, 3.0]]]]


def test_shifts_are_moved_pictures_with_repeated_edges() -> None:
    image = torch.arange(25.0).view(1, 1, 5, 5)
    views = tta.shifts(image, shift=0.2)
    assert len(views) == 10
    assert torch.equal(views[0], image)
    assert torch.equal(views[2][..., 1:, :], image[..., :-1, :])  # moved down by one
    assert torch.equal(views[2][..., 0, :], image[..., 0, :])
    assert torch.equal(views[8][..., :-1], image[..., 1:])  # moved left by one


def test_ten_crop_takes_corners_and_centre() -> None:
    image = torch.arange(36.0).view(1, 1, 6, 6)
    views = tta.ten_crop(image, size=2 / 3)
    assert len(views) == 10
    corners = [v[0, 0, 0, 0].item() for v in views[::2]]
    assert corners == [0, 2, 12, 14, 7]
    assert torch.equal(views[1], views[0].flip(-1))


def test_average_of_probabilities_and_of_logits() -> None:
    views = [torch.full((1, 1, 2, 2), 2.0), torch.zeros(1, 1, 2, 2)]
    logits = [mean_of_left_half(v) for v in views]
    averaged = tta.average_views(mean_of_left_half, views, "probabilities").softmax(dim=1)
    assert torch.allclose(averaged, (logits[0].softmax(1) + logits[1].softmax(1)) / 2)
    averaged = tta.average_views(mean_of_left_half, views, "logits")
    assert torch.allclose(averaged, (logits[0] + logits[1]) / 2)
    with pytest.raises(ValueError, match=r"eval\.average"):
        tta.average_views(mean_of_left_half, views, "votes")
