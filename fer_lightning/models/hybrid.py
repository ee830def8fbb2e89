"""ResInception: alternating residual and inception blocks, the network of the Expression.AI app."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fer_lightning.models.layers import OutputLayer, conv_norm_relu, init_weights
from fer_lightning.models.residual import ResidualBlock


class InceptionBlock(nn.Module):
    """Four parallel branches: 1x1, 1x1 to 3x3, 1x1 to 5x5, max-pool to 1x1 (Szegedy et al. 2015, arXiv 1409.4842).

    Args:
        in_channels: Channels of the input.
        width: Channels of each of the first two branches; the last two have half as many, so the output has 3 width.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.ways = nn.ModuleList(
            [
                nn.Sequential(*conv_norm_relu(in_channels, width, kernel=1)),
                nn.Sequential(*conv_norm_relu(in_channels, half, kernel=1), *conv_norm_relu(half, width)),
                nn.Sequential(
                    *conv_norm_relu(in_channels, quarter, kernel=1), *conv_norm_relu(quarter, half, kernel=5)
                ),
                nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *conv_norm_relu(in_channels, half, kernel=1)),
            ]
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return features (B, 3 width, h, w) for features (B, in_channels, h, w)."""
        return torch.cat([branch(features) for branch in self.ways], dim=1)


class ResInception(nn.Module):
    """A 7x7 stem, five pairs of a residual block that halves the feature map and an inception block, two dense layers.

    github.com/Riiishaab/Expression.AI ("Deep Hybrid CNN", 7.45 M parameters).

    Args:
        num_classes: Number of logits.
        channels: Input channels.
        image_size: Side of the input in pixels.
        width: Channels of the stem and of the first pair; the other pairs have 2, 2, 4 and 4 times as many.
        dropout: Probability of dropping a unit of either fully connected layer.
    """

    def __init__(
        self, *, num_classes: int, channels: int, image_size: int, width: int = 64, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *conv_norm_relu(channels, width, kernel=7, stride=2), nn.MaxPool2d(3, stride=2, padding=1)
        )
        self.pairs = nn.Sequential()
        inputs = width
        for factor in (1, 2, 2, 4, 4):
            outputs = factor * width
            self.pairs.append(nn.Sequential(ResidualBlock(inputs, outputs, stride=2), InceptionBlock(outputs, outputs)))
            inputs = 3 * outputs
        self.head = nn.Sequential()
        for units in (8 * width, 4 * width):
            dense = [nn.Linear(inputs, units, bias=False), nn.BatchNorm1d(units), nn.ReLU(inplace=True)]
            self.head.extend([*dense, nn.Dropout(dropout)])
            inputs = units
        self.stem.apply(init_weights)
        self.pairs.apply(init_weights)
        self.head.apply(init_weights).append(OutputLayer(inputs, num_classes))

    def stages(self) -> list[nn.Module]:
        """Return the feature stages from input to output."""
        return [self.stem, *self.pairs]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) for normalised images (B, channels, image_size, image_size)."""
        logits: Tensor = self.head(self.pairs(self.stem(images)).mean(dim=(2, 3)))
        return logits
