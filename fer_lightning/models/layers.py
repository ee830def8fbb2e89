"""What the from-scratch networks have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size (divided by the stride, rounded up), BatchNorm with the bias of both, ReLU."""
    uneven: list[nn.Module] = [] if kernel % 2 else [nn.ZeroPad2d((0, 1, 0, 1))]  # an even one needs more on one side
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=(kernel - 1) // 2, bias=False)
    return [*uneven, convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def init_weights(module: nn.Module) -> None:
    """For `Module.apply`: weights drawn for a ReLU after the layer (He et al. 2015), biases 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)


class OutputLayer(nn.Linear):
    """The last layer, drawn small: training begins near the uniform answer, at a loss of log(num_classes).

    Its logits are float32 under autocast too: bfloat16 has 8 bits, in which two classes often score the same.

    Args:
        features: Values a picture.
        num_classes: Number of logits.
    """

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__(features, num_classes)
        nn.init.normal_(self.weight, std=0.1 * features**-0.5)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, num_classes) of features (B, features)."""
        device = features.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return super().forward(features)
        with torch.autocast(device, enabled=False):
            return super().forward(features.float())


def map_size(body: str, image_size: int, poolings: int) -> int:
    """Side of the last feature map in pixels, after `poolings` halvings.

    Raises:
        ValueError: Nothing is left of the picture; the message names the smallest size.
    """
    smallest: int = 2**poolings
    if image_size < smallest:
        raise ValueError(
            f"model.image_size={image_size} is too small for {body}, which halves the picture "
            f"{poolings} times; it must be at least {smallest}"
        )
    return image_size // smallest
