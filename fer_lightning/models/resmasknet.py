"""ResMaskNet: a ResNet whose features are weighted by U-Nets after each stage (Pham, Vu & Tran 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fer_lightning.models.layers import init_weights
from fer_lightning.models.residual import ResidualBlock
from fer_lightning.models.timm_body import TimmBody


class Mask(nn.Module):
    """A small U-Net of residual blocks that predicts the weight of each channel at each position.

    In the encoder channels double `depth` times, with max-pools between; in the decoder they halve, and each level is
    concatenated with the encoder level of its size. Odd sizes are rounded up in the encoder and cropped in the decoder.

    Args:
        channels: Channels of the input and the output.
        depth: Number of doublings; 1 means two blocks without pooling.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(ResidualBlock(widths[i], widths[i + 1]) for i in range(depth))
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.enlarge = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(widths[i + 1], widths[i], kernel_size=2, stride=2),
                nn.BatchNorm2d(widths[i]),
                nn.ReLU(inplace=True),
            )
            for i in range(depth - 1, 0, -1)
        )
        self.up = nn.ModuleList(ResidualBlock(widths[i + 1], widths[i]) for i in range(depth - 1, -1, -1))
        self.apply(init_weights)
        for block in (*self.down, *self.up):
            nn.init.zeros_(block.residual[-1].weight)  # as in the original: each block starts as its shortcut

    def forward(self, features: Tensor) -> Tensor:
        """Return weights (B, channels, h, w) in (0, 1) with sum 1 over the channels, for features of the same shape."""
        levels: list[Tensor] = []
        for block in self.down:
            features = block(self.pool(features) if levels else features)
            levels.append(features)
        levels.pop()
        for enlarge, block in zip(self.enlarge, self.up, strict=False):
            skip = levels.pop()
            height, width = skip.shape[-2:]
            features = block(torch.cat([enlarge(features)[..., :height, :width], skip], dim=1))
        weights: Tensor = self.up[-1](features)
        return weights.softmax(dim=1)


class ResMaskNet(TimmBody):
    """A timm ResNet with features F (1 + Mask(F)) after each of its stages, then dropout and one linear layer.

    "Facial expression recognition using residual masking network", ICPR 2020; github.com/phamquiluan/
    ResidualMaskingNetwork. With ResNet-34 it has 137.8 M parameters; the published 142.9 M count the masks' shortcut
    convolutions twice, because that code registers them under two names. Pretrained weights are the ResNet's only.

    Args:
        name: Name of a timm ResNet with four stages.
        num_classes: Number of logits.
        channels: Input channels.
        image_size: Side of the input in pixels.
        pretrained: Whether to download the weights that timm publishes for this name.
        depths: Depth of the mask after each stage.
        dropout: Probability of dropping an input of the last layer.

    Raises:
        ValueError: As for `TimmBody`; or `name` is not a ResNet, or `depths` does not have one number per stage.
    """

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        channels: int,
        image_size: int,
        pretrained: bool = False,
        depths: Sequence[int] = (4, 3, 2, 1),
        dropout: float = 0.4,
    ) -> None:
        super().__init__(
            name,
            num_classes=num_classes,
            channels=channels,
            image_size=image_size,
            pretrained=pretrained,
            dropout=dropout,
        )
        if not hasattr(self.backbone, "layer4"):
            raise ValueError(f"model.name={name} is not a ResNet with four stages; give one such as resnet34")
        widths = [stage["num_chs"] for stage in self.backbone.feature_info[1:]]
        if len(depths) != len(widths):
            raise ValueError(
                f"model.depths has {len(depths)} numbers; it must have one for each of the {len(widths)} stages"
            )
        self.masks = nn.ModuleList(Mask(width, depth) for width, depth in zip(widths, depths, strict=True))

    def stages(self) -> list[nn.Module]:
        """Return the ResNet's stem, then its stages with their masks."""
        stem, *stages = super().stages()
        return [stem, *(nn.ModuleList(pair) for pair in zip(stages, self.masks, strict=True))]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) for normalised images (B, channels, image_size, image_size)."""
        resnet = self.backbone
        features = resnet.maxpool(resnet.act1(resnet.bn1(resnet.conv1(images))))
        for stage, mask in zip((resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4), self.masks, strict=True):
            features = stage(features)
            features = features * (1 + mask(features))
        logits: Tensor = self.head(resnet.global_pool(features))
        return logits
