"""VGG19: the convolutions of VGG-19 with BatchNorm and one linear layer, as WuJie1010 trained it on FER2013."""

from __future__ import annotations

from torch import Tensor, nn

from fer_lightning.models.layers import OutputLayer, conv_norm_relu, init_weights, map_size


class VGG19(nn.Module):
    """Five blocks of 2, 2, 4, 4 and 4 Conv3x3-BatchNorm-ReLU and a max-pool, average pooling, dropout, linear layer.

    Simonyan & Zisserman 2015 (arXiv 1409.1556, table 1, E) without its large fully connected layers, as in
    github.com/WuJie1010/Facial-Expression-Recognition.Pytorch; 20.0 M parameters.

    Args:
        num_classes: Number of logits.
        channels: Input channels.
        image_size: Side of the input in pixels.
        width: Channels of the first block; the next have 2, 4, 8 and 8 times as many.
        dropout: Probability of dropping an input of the last layer.

    Raises:
        ValueError: `image_size` is too small for five poolings.
    """

    def __init__(
        self, *, num_classes: int, channels: int, image_size: int, width: int = 64, dropout: float = 0.5
    ) -> None:
        super().__init__()
        map_size("VGG19", image_size, poolings=5)
        self.blocks = nn.Sequential()
        inputs = channels
        for factor, depth in ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4)):
            block = nn.Sequential()
            for _ in range(depth):
                block.extend(conv_norm_relu(inputs, factor * width))
                inputs = factor * width
            self.blocks.append(block.append(nn.MaxPool2d(2)))
        self.head = nn.Sequential(nn.Dropout(dropout), OutputLayer(inputs, num_classes))
        self.blocks.apply(init_weights)

    def stages(self) -> list[nn.Module]:
        """Return the feature stages from input to output."""
        return list(self.blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) for normalised images (B, channels, image_size, image_size)."""
        logits: Tensor = self.head(self.blocks(images).mean(dim=(2, 3)))
        return logits
