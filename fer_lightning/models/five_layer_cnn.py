"""FiveLayerCNN: three convolutions with large kernels, two dense layers (Kim et al. 2016; Khanzada et al. 2020)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from fer_lightning.models.layers import OutputLayer, conv_norm_relu, init_weights, map_size


class FiveLayerCNN(nn.Module):
    """Convolutions of 5x5, 4x4 and 5x5, each with BatchNorm, ReLU and MaxPool3x3/2, then two dense layers.

    The network of Kim et al., "Fusing Aligned and Non-Aligned Face Information for Automatic Affect Recognition in the
    Wild", 2016, as Khanzada, Bai & Celepcikay (arXiv 2004.11823) trained it.

    Args:
        num_classes: Number of logits.
        channels: Input channels.
        image_size: Side of the input in pixels.
        width: Channels of the first two layers; the third has twice as many.
        hidden: Units of the fully connected layer.
        dropout: Probability of dropping a hidden unit.

    Raises:
        ValueError: `image_size` is too small for three poolings.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        image_size: int,
        width: int = 32,
        hidden: int = 1024,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        map_size("FiveLayerCNN", image_size, poolings=3)
        layers = [(channels, width, 5), (width, width, 4), (width, 2 * width, 5)]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(*conv_norm_relu(inputs, outputs, kernel), nn.MaxPool2d(3, stride=2, padding=1))
                for inputs, outputs, kernel in layers
            )
        )
        side = math.ceil(image_size / 8)  # padded pooling rounds up
        self.head = nn.Sequential(
            nn.Linear(2 * width * side**2, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout)
        ).apply(init_weights)
        self.layers.apply(init_weights)
        self.head.append(OutputLayer(hidden, num_classes))

    def stages(self) -> list[nn.Module]:
        """Return the feature stages from input to output."""
        return list(self.layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) for normalised images (B, channels, image_size, image_size)."""
        logits: Tensor = self.head(self.layers(images).flatten(start_dim=1))
        return logits
