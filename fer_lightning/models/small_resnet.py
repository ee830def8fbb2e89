"""SmallResNet: residual networks for images of 32 to 64 px, from mobile size to GPU size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fer_lightning.models.layers import OutputLayer, conv_norm_relu, init_weights, map_size
from fer_lightning.models.residual import ResidualBlock


class SmallResNet(nn.Module):
    """A stem, stages of residual blocks, global average pooling; each stage but the first halves the feature map.

    With its default options it is the ResNet-18 for CIFAR: a 3x3 stem with stride 1, 64 to 512 channels, two
    blocks per stage; 11.17 M parameters.

    Args:
        num_classes: Number of logits.
        channels: Input channels.
        image_size: Side of the input in pixels.
        widths: Channels of each stage; the stem has as many as the first.
        depths: Number of blocks of each stage.
        stem_kernel: Side of the stem's kernel in pixels.
        stem_stride: Stride of the stem: 1, or 2 to halve the image, which needs a quarter of the computation.
        average_pool: Whether stages halve the feature map by 2x2 average pooling before their first block, not by its
            stride: less aliasing, and faster on a CPU, where the gradients of strided convolutions are slow.
        squeeze_excite: Whether each block ends in a channel gate.
        drop_path: Probability of skipping the last block's residual in training; rises linearly from 0 at the first.
        dropout: Probability of dropping an input of the last layer.

    Raises:
        ValueError: `widths` and `depths` differ in length, or `image_size` is too small for the downsamplings.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        image_size: int,
        widths: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 2, 2),
        stem_kernel: int = 3,
        stem_stride: int = 1,
        average_pool: bool = False,
        squeeze_excite: bool = False,
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(
                f"model.widths has {len(widths)} stages, model.depths {len(depths)}; both need one number per stage"
            )
        map_size("SmallResNet", image_size, poolings=len(widths) - 1 + (stem_stride > 1))
        self.stem = nn.Sequential(*conv_norm_relu(channels, widths[0], kernel=stem_kernel, stride=stem_stride))
        last = max(1, sum(depths) - 1)
        self.blocks = nn.Sequential()
        inputs = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = nn.Sequential()
            if stage > 0 and average_pool:
                blocks.append(nn.AvgPool2d(2))
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 and not average_pool else 1
                drop = drop_path * (sum(depths[:stage]) + block) / last
                blocks.append(ResidualBlock(inputs, width, stride, squeeze_excite, drop))
                inputs = width
            self.blocks.append(blocks)
        self.head = nn.Sequential(nn.Dropout(dropout), OutputLayer(inputs, num_classes))
        self.stem.apply(init_weights)
        self.blocks.apply(init_weights)

    def stages(self) -> list[nn.Module]:
        """Return the feature stages from input to output."""
        return [self.stem, *self.blocks]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) for normalised images (B, channels, image_size, image_size)."""
        logits: Tensor = self.head(self.blocks(self.stem(images)).mean(dim=(2, 3)))
        return logits
