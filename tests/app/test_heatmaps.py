import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fer_lightning.app.heatmaps import grad_cam, occlusion_map
from fer_lightning.models.network import FERNetwork


class Pooled(nn.Module):
    """Two feature maps, mean pooling and a linear layer, where Grad-CAM equals CAM (Zhou et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.head = nn.Linear(2, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean(dim=(2, 3)))


class Tokens(nn.Module):
    """Patches as tokens, as in transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 4, stride=4)
        self.block = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.block(self.patches(images).flatten(2).transpose(1, 2)).mean(dim=1))


def build(body: nn.Module) -> FERNetwork:
    return FERNetwork(body, image_size=8, channels=1, mean=0.5, std=0.5).eval()


@pytest.fixture
def face() -> np.ndarray:
    return np.random.default_rng(0).random((1, 8, 8), np.float32)


@pytest.mark.parametrize("target", [0, 1, 2])
def test_grad_cam_of_pooled_features_is_their_weighted_sum(face, target: int) -> None:
    torch.manual_seed(0)
    model = build(Pooled())
    with torch.no_grad():
        maps = model.body.features((torch.from_numpy(face)[None] - 0.5) / 0.5)[0]
        cam = torch.einsum("k,kij->ij", model.body.head.weight[target], maps).relu()
    expected = cam / cam.max() if cam.max() > 0 else cam
    np.testing.assert_allclose(grad_cam(model, face, target), expected.numpy(), atol=1e-5)


def test_grad_cam_of_a_network_that_crops_covers_the_centre_of_the_face(face) -> None:
    torch.manual_seed(0)
    model = build(Pooled())
    model.crop = 0.5
    heat_map = grad_cam(model, face, 1)
    assert heat_map.shape == (8, 8)
    assert heat_map[2:6, 2:6].max() == 1
    heat_map[2:6, 2:6] = 0
    assert (heat_map == 0).all()


def test_grad_cam_does_not_change_the_network(face) -> None:
    model = build(Pooled())
    with torch.inference_mode():
        grad_cam(model, face, 0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_networks_with_tokens_have_no_grad_cam(face) -> None:
    assert grad_cam(build(Tokens()), face, 0) is None


def test_occlusion_shows_the_region_that_determines_the_probability() -> None:
    """A class whose probability is the brightness of the lower right quarter."""

    def probabilities(faces: np.ndarray) -> np.ndarray:
        brightness = faces[:, 0, 12:, 12:].mean(axis=(1, 2))
        return np.stack([brightness, 1 - brightness], axis=1)

    face = np.zeros((1, 24, 24), np.float32)
    face[:, 12:, 12:] = 1
    heat_map = occlusion_map(probabilities, face, 0)
    assert heat_map.shape == (24, 24)
    assert heat_map.max() == 1
    assert (heat_map[14:, 14:] > 0.5).all()
    assert (heat_map[:7] == 0).all()  # squares of 6 px that do not overlap the quarter
    assert not occlusion_map(probabilities, face, 1).any()  # occluding it increases the other class's probability


def test_occlusion_covers_every_pixel_of_any_size() -> None:
    for size in (8, 11, 48):
        face = np.random.default_rng(size).random((3, size, size), np.float32)
        heat_map = occlusion_map(lambda faces: faces.mean(axis=(2, 3)), face, 0)
        assert np.isfinite(heat_map).all()
