from typing import Any

import pytest
import torch
from torch import nn

from fer_lightning.models.channel_pruning import prune_channels
from fer_lightning.models.cost import multiply_accumulates
from fer_lightning.models.network import FERNetwork, build_network

MODELS = "fer_lightning.models"
BODIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "small_resnet.SmallResNet": (
        {"widths": [16, 32], "depths": [1, 1], "squeeze_excite": True},
        {"widths": [8, 24], "depths": [1, 1], "squeeze_excite": True},
    ),
    "sequential_cnn.SequentialCNN": (
        {"width": 12, "hidden": 20, "dropout": 0.0},
        {"width": 9, "hidden": 10, "dropout": 0.0},
    ),
}
"""By body: the options of a wide and of a narrower network."""


def network(body: str, options: dict[str, Any]) -> FERNetwork:
    config = {"_target_": f"{MODELS}.{body}", "image_size": 24, "channels": 1, "mean": 0.5, "std": 0.5, **options}
    built = build_network(config, num_classes=7)
    for layer in built.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 1.5)
    return built.eval()


@pytest.mark.parametrize("body", BODIES)
def test_pruning_channels_with_zero_weights_keeps_the_outputs(body: str) -> None:
    torch.manual_seed(0)
    wide, slim = (network(body, options) for options in BODIES[body])
    narrower_width = {_width(a): _width(b) for a, b in zip(wide.modules(), slim.modules(), strict=True)}
    with torch.no_grad():
        for layer in wide.modules():
            if (width := _width(layer)) > narrower_width.get(width, width):
                removed = width - narrower_width[width]
                zeroed = torch.arange(width)[:: width // removed][:removed]
                layer.weight[zeroed] = 0.0
                if layer.bias is not None:
                    layer.bias[zeroed] = 0.0
    images = torch.rand(5, 1, 24, 24)
    expected = wide(images).detach()
    prune_channels(wide, slim)
    assert torch.allclose(slim(images), expected, atol=1e-5)


def _width(layer: nn.Module) -> int:
    return len(layer.weight) if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear) else 0


def test_pruning_keeps_the_channels_with_the_largest_weights() -> None:
    wide = network("small_resnet.SmallResNet", {"widths": [4], "depths": [0]})
    slim = network("small_resnet.SmallResNet", {"widths": [2], "depths": [0]})
    sizes = torch.tensor([1.0, 4.0, 2.0, 3.0])
    with torch.no_grad():
        for layer in (wide.body.stem[0], wide.body.head[1]):
            layer.weight.fill_(1.0)
        wide.body.stem[0].weight.mul_(sizes.view(4, 1, 1, 1))
        for name in ("weight", "bias"):
            getattr(wide.body.stem[1], name).fill_(1.0)
    prune_channels(wide, slim)
    assert slim.body.stem[0].weight[:, 0, 0, 0].tolist() == [4.0, 3.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [16, 32], "depths": [1, 1]}, "as wide as the trained one"),
        ({"widths": [16, 40], "depths": [1, 1]}, "cannot make it wider"),
        ({"widths": [8, 16], "depths": [1, 2]}, "different layers"),
    ],
)
def test_a_network_that_is_not_narrower_is_refused(options: dict[str, Any], message: str) -> None:
    wide = network("small_resnet.SmallResNet", {"widths": [16, 32], "depths": [1, 1]})
    with pytest.raises(ValueError, match=message):
        prune_channels(wide, network("small_resnet.SmallResNet", options))


def test_multiply_accumulates_equal_a_hand_count() -> None:
    # One 3x3 convolution to 4 channels over 24x24 positions, then 4 features to 7 logits.
    model = network("small_resnet.SmallResNet", {"widths": [4], "depths": [0]})
    assert multiply_accumulates(model) == 24 * 24 * 4 * 9 + 4 * 7
