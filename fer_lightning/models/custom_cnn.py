"""CustomCNN: three double-convolution blocks, global average pooling, one hidden layer."""

from __future__ import annotations

from torch import Tensor, nn

from fer_lightning.models.layers import OutputLayer, conv_norm_relu, init_weights, map_size


class CustomCNN(nn.Module):
    """Three blocks of two Conv3x3-BatchNorm-ReLU and a max-pool, global average pooling, one hidden layer.

    Args:
        num_classes: Number of logits.
        channels: Input channels.
        image_size: Side of the input in pixels.
        width: Channels of the first block; the next two have twice and four times as many.
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
        hidden: int = 128,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        map_size("CustomCNN", image_size, poolings=3)
        widths = [width, 2 * width, 4 * width]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(*conv_norm_relu(inputs, outputs), *conv_norm_relu(outputs, outputs), nn.MaxPool2d(2))
                for inputs, outputs in zip([channels, *widths], widths, strict=False)
            )
        )
        self.head = nn.Sequential(
            nn.Linear(widths[-1], hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        ).apply(init_weights)
        self.blocks.apply(init_weights)
        self.head.append(OutputLayer(hidden, num_classes))

    def stages(self) -> list[nn.Module]:
        """Return the feature stages from input to output."""
        return list(self.blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) for normalised images (B, channels, image_size, image_size)."""
        logits: Tensor = self.head(self.blocks(images).mean(dim=(2, 3)))
        return logits
