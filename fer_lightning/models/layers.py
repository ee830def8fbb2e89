"""Layers and initialisation of the networks that are trained from scratch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """Return a convolution without bias, BatchNorm and ReLU; the output size is the input size / stride, rounded up."""
    # an even kernel needs one more pixel on one side
    padding: list[nn.Module] = [] if kernel % 2 else [nn.ZeroPad2d((0, 1, 0, 1))]
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=(kernel - 1) // 2, bias=False)
    return [*padding, convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def init_weights(module: nn.Module) -> None:
    """Initialise a layer that is followed by a ReLU (He et al. 2015), with biases 0; for `Module.apply`."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)


class OutputLayer(nn.Linear):
    """The last layer, with small initial weights: training starts near the uniform prediction, loss log(num_classes).

    Its logits are float32 also under autocast: with the 8 bits of bfloat16 two classes often have equal scores.

    Args:
        features: Number of input features.
        num_classes: Number of logits.
    """

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__(features, num_classes)
        nn.init.normal_(self.weight, std=0.1 * features**-0.5)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, num_classes) for features (B, features)."""
        device = features.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return super().forward(features)
        with torch.autocast(device, enabled=False):
            return super().forward(features.float())


def map_size(body: str, image_size: int, poolings: int) -> int:
    """Return the side of the last feature map in pixels, after `poolings` halvings.

    Raises:
        ValueError: The image is too small; the message gives the minimum size.
    """
    smallest: int = 2**poolings
    if image_size < smallest:
        raise ValueError(
            f"model.image_size={image_size} is too small for {body}, which halves the image "
            f"{poolings} times; it must be at least {smallest}"
        )
    return image_size // smallest
