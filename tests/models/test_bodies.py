"""Properties of single networks: published parameter counts, on the meta device, and their parts."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from omegaconf import OmegaConf
from torch import nn

from fer_lightning.config import CONF
from fer_lightning.models.emonext import EmoNeXt, SpatialTransformer
from fer_lightning.models.hybrid import InceptionBlock, ResInception
from fer_lightning.models.keras_cnn import KerasCNN
from fer_lightning.models.layers import OutputLayer
from fer_lightning.models.network import build_network, count_parameters
from fer_lightning.models.residual import ResidualBlock
from fer_lightning.models.resmasknet import Mask, ResMaskNet
from fer_lightning.models.small_resnet import SmallResNet
from fer_lightning.models.vgg import VGG
from fer_lightning.models.vgg19 import VGG19


def body(option: str, image_size: int, num_classes: int = 7, **changes: object) -> nn.Module:
    """Build the body that conf/model describes on the meta device."""
    config = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{option}.yaml"))
    options = {k: v for k, v in config.items() if k not in ("_target_", "mean", "std", "weights")}
    classes = {c.__name__: c for c in (ResMaskNet, EmoNeXt, ResInception, SmallResNet, VGG19, KerasCNN)}
    body_class = classes[config["_target_"].rsplit(".", 1)[-1]]
    with torch.device("meta"):
        return body_class(num_classes=num_classes, **{**options, "image_size": image_size, **changes})


def test_cifar_resnet18_has_its_known_size() -> None:
    assert count_parameters(body("resnet18_small", 32, num_classes=10, channels=3)) == 11_173_962


def test_vgg19_has_its_known_size_except_for_biases() -> None:
    vgg = body("vgg19", 44, num_classes=10, channels=3)
    biases = sum(layer.out_channels for layer in vgg.modules() if isinstance(layer, nn.Conv2d))
    assert count_parameters(vgg) + biases == 20_040_522


def test_vggs_fully_connected_layers_start_as_pytorch_draws_them() -> None:
    torch.manual_seed(0)
    head = VGG(num_classes=7, channels=1, image_size=16, width=16).head
    for layer in (head[0], head[3]):  # uniform with variance 1 / (3 fan_in); He's would be 2 / fan_in
        assert layer.weight.std().item() == pytest.approx((3 * layer.in_features) ** -0.5, rel=0.01)
        assert layer.weight.abs().max() <= layer.in_features**-0.5
        assert layer.bias.abs().max() > 0


def test_hybrid_has_its_published_size() -> None:
    assert count_parameters(body("hybrid", 224)) == pytest.approx(7.45e6, rel=0.002)


def test_resmasknet_has_its_published_size_if_mask_shortcuts_count_twice() -> None:
    network = body("resmasknet", 224)
    shortcuts = sum(
        count_parameters(block.shortcut) for block in network.masks.modules() if isinstance(block, ResidualBlock)
    )
    assert count_parameters(network) == 137_796_423
    assert count_parameters(network) + shortcuts == pytest.approx(142.9e6, rel=0.0005)


def test_emonext_is_a_convnext_with_gates_and_a_transformer() -> None:
    gates = sum(2 * width * width // 16 for width in (192, 384, 768))
    transformer = (3 * 49 * 8 + 8 + 16) + (8 * 25 * 10 + 10 + 20) + (10 * 52 * 52 * 32 + 32) + (32 * 6 + 6)
    convnext = count_parameters(timm.create_model("convnext_tiny", num_classes=7))
    assert count_parameters(body("emonext", 224)) == convnext + gates + transformer


def test_compact_has_less_than_a_million_and_a_half_parameters() -> None:
    assert count_parameters(body("compact", 48)) == 1_371_967


def test_keras_cnn_has_no_normalisation() -> None:
    assert not any(isinstance(m, nn.BatchNorm2d) for m in body("keras_cnn", 48).modules())


def test_a_residual_block_adds_its_residual_to_its_shortcut() -> None:
    features = torch.randn(2, 4, 6, 6)
    block = ResidualBlock(4, 4).eval()
    assert torch.equal(block(features), (features + block.residual(features)).relu())
    downsampled = ResidualBlock(4, 8, stride=2, squeeze_excite=True).eval()
    assert torch.equal(downsampled(features), (downsampled.shortcut(features) + downsampled.residual(features)).relu())
    assert downsampled(torch.randn(2, 4, 7, 5)).shape == (2, 8, 4, 3)


def test_the_first_gradients_of_a_small_resnet_reach_every_convolution() -> None:
    network = SmallResNet(num_classes=7, channels=1, image_size=48, widths=[8, 16], depths=[1, 2], squeeze_excite=True)
    network(torch.rand(4, 1, 48, 48)).square().sum().backward()
    kernels = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert all(kernel.grad is not None and kernel.grad.count_nonzero() > 0 for kernel in kernels)


def test_a_small_resnet_halves_the_map_by_average_pooling_instead_of_strides() -> None:
    options = {"num_classes": 7, "channels": 1, "image_size": 16, "widths": [4, 8, 12], "depths": [1, 2, 1]}
    strided, pooled = SmallResNet(**options).eval(), SmallResNet(**options, average_pool=True).eval()
    assert count_parameters(strided) == count_parameters(pooled)
    convolutions = [m for m in pooled.blocks.modules() if isinstance(m, nn.Conv2d)]
    assert all(convolution.stride == (1, 1) for convolution in convolutions)
    features = torch.randn(2, 4, 8, 8)
    means = features.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean(dim=(3, 5))
    assert torch.allclose(pooled.blocks[1](features), pooled.blocks[1][1:](means), atol=1e-6)
    assert [pooled.blocks[: n + 1](features).shape[-1] for n in range(3)] == [8, 4, 2]


def test_drop_path_rises_linearly_to_the_last_block() -> None:
    network = body("resnet_wide", 48, drop_path=0.3, depths=[1, 1, 1, 1])
    rates = [m.drop_prob for m in network.modules() if type(m).__name__ == "DropPath"]
    assert rates == pytest.approx([0.1, 0.2, 0.3])


def test_widths_and_depths_of_stages_must_match() -> None:
    with pytest.raises(ValueError, match=r"model\.widths has 4 stages, model\.depths 2"):
        body("compact", 48, widths=[1, 2, 3, 4], depths=[1, 1])
    with pytest.raises(ValueError, match=r"model\.image_size=7 is too small for SmallResNet"):
        body("compact", 7)


def test_an_inception_block_keeps_the_size_and_triples_the_width() -> None:
    assert InceptionBlock(6, 8)(torch.randn(2, 6, 5, 7)).shape == (2, 24, 5, 7)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 3, 7, 8])
def test_mask_weights_sum_to_one_at_any_size(depth: int, size: int) -> None:
    weights = Mask(2, depth).eval()(torch.randn(2, 2, size, size))
    assert weights.shape == (2, 2, size, size)
    assert torch.allclose(weights.sum(dim=1), torch.ones(2, size, size))


def test_zero_masks_leave_the_resnet_unchanged() -> None:
    """Features are multiplied by 1 + mask, so masks of 0 give the plain ResNet."""
    network = ResMaskNet("test_resnet", num_classes=7, channels=3, image_size=32, depths=[1, 1, 1, 1]).eval()
    images = torch.rand(2, 3, 32, 32)
    plain = network.head(network.backbone(images))
    assert not torch.allclose(network(images), plain, atol=1e-5)
    for i in range(4):
        network.masks[i] = nn.Threshold(float("inf"), 0.0)
    assert torch.allclose(network(images), plain, atol=1e-6)


def test_an_untrained_emonext_without_gates_is_its_convnext() -> None:
    network = EmoNeXt("test_convnext", num_classes=7, channels=3, image_size=32).eval()
    network.gates = nn.ModuleList(nn.Identity() for _ in network.gates)
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(network(images), network.head(network.backbone(images)), atol=1e-4)


def test_logits_are_float32_under_autocast() -> None:
    layer, features = OutputLayer(8, 7), torch.randn(64, 8).bfloat16()
    expected = nn.functional.linear(features.float(), layer.weight, layer.bias)
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(features)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, expected)
    logits.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


def test_an_untrained_spatial_transformer_is_the_identity_and_a_changed_one_moves_images() -> None:
    transformer = SpatialTransformer(1, 20).eval()
    images = torch.rand(2, 1, 20, 20)
    assert torch.allclose(transformer(images), images, atol=1e-4)
    with torch.autocast("cpu"):
        assert torch.allclose(transformer(images), images, atol=1e-4)  # half precision would shift it by a pixel
    with torch.no_grad():
        transformer.change[-1].bias[2] = 2.0  # by the full width: only the first column still samples the image
    assert transformer(images)[..., 1:].abs().max() == 0
    with pytest.raises(ValueError, match="at least 18"):
        SpatialTransformer(1, 17)
    assert SpatialTransformer(1, 18)(torch.rand(2, 1, 18, 18)).shape == (2, 1, 18, 18)


@pytest.mark.parametrize(
    ("option", "name", "wrong", "message"),
    [
        ("resmasknet", "test_resnet", "test_vit", "not a ResNet"),
        ("emonext", "test_convnext", "test_resnet", "not a ConvNeXt"),
    ],
)
def test_timm_backbones_load_published_weights(
    option: str, name: str, wrong: str, message: str, tmp_path: Path
) -> None:
    published = timm.create_model(name, num_classes=1000).state_dict()
    safetensors.torch.save_file(published, tmp_path / "backbone.safetensors")
    config = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{option}.yaml"))
    changes = {"name": name, "image_size": 32} | ({"depths": [1, 1, 1, 1]} if option == "resmasknet" else {})
    loaded = build_network({**config, **changes, "weights": str(tmp_path / "backbone.safetensors")}, 7)
    own = loaded.body.backbone.state_dict()
    assert own
    assert all(torch.equal(value, published[key]) for key, value in own.items())
    with pytest.raises(ValueError, match=message):
        build_network({**config, **changes, "name": wrong}, 7)
