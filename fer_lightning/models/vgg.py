"""VGG: the FER2013 variant of Khaireddin & Chen 2021 (arXiv 2105.03588)."""

from __future__ import annotations

from torch import Tensor, nn

from fer_lightning.models.layers import OutputLayer, conv_norm_relu, init_weights, map_size


class VGG(nn.Module):
    """Four blocks of two Conv3x3-BatchNorm-ReLU and a max-pool, 64 to 512 channels; two layers of 4096 units.

    Khaireddin & Chen 2021, "Facial emotion recognition: state of the art performance on FER2013"; 29.9 M
    parameters at 40 px gray. The 4096-unit layers keep PyTorch's default initialization, as in the authors' code.

    Args:
        num_classes: Number of logits.
        channels: Input channels.
        image_size: Side of the input in pixels.
        width: Channels of the first block; the next have 2, 4 and 8 times as many, the fully connected layers 64 times.
        dropout: Probability of dropping a unit of either fully connected layer.

    Raises:
        ValueError: `image_size` is too small for four poolings.
    """

    def __init__(
        self, *, num_classes: int, channels: int, image_size: int, width: int = 64, dropout: float = 0.2
    ) -> None:
        super().__init__()
        side = map_size("VGG", image_size, poolings=4)
        widths, units = [width, 2 * width, 4 * width, 8 * width], 64 * width
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(*conv_norm_relu(inputs, outputs), *conv_norm_relu(outputs, outputs), nn.MaxPool2d(2))
                for inputs, outputs in zip([channels, *widths], widths, strict=False)
            )
        )
        self.head = nn.Sequential(
            nn.Linear(widths[-1] * side**2, units),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(units, units),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.blocks.apply(init_weights)
        self.head.append(OutputLayer(units, num_classes))

    def stages(self) -> list[nn.Module]:
        """Return the feature stages from input to output."""
        return list(self.blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of normalised images (B, channels, image_size, image_size)."""
        logits: Tensor = self.head(self.blocks(images).flatten(start_dim=1))
        return logits
