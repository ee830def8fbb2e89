"""ResMaskNet: a ResNet whose features are weighted by U-Nets after each stage (Pham, Vu & Tran 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fer_lightning.models.layers import init_weights
from fer_lightning.models.residual import ResidualBlock
from fer_lightning.models.timm_body import TimmBody


class Mask(nn.Module):
    """A small U-Net of residual blocks that says, at each place, how much each channel matters.

    On the way down channels double `depth` times, with max-pools between; on the way up they halve, each level joined
    with the one of its size. Sizes that are odd are rounded up on the way down and cut on the way up.

    Args:
        channels: Of its input and of its answer.
        depth: Doublings; 1 is two blocks without a pooling.
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
            nn.init.zeros_(block.residual[-1].weight)  # as in the source: each begins as its shortcut

    def forward(self, features: Tensor) -> Tensor:
        """Weights in (0, 1) that sum to 1 over the channels, of features of the same shape (B, channels, h, w)."""
        levels: list[Tensor] = []
        for block in self.down:
            features = block(self.pool(features) if levels else features)
            levels.append(features)
        levels.pop()
        for enlarge, block in zip(self.enlarge, self.up, strict=False):
            same_size = levels.pop()
            height, width = same_size.shape[-2:]
            features = block(torch.cat([enlarge(features)[..., :height, :width], same_size], dim=1))
        weights: Tensor = self.up[-1](features)
        return weights.softmax(dim=1)


class ResMaskNet(TimmBody):
    """A ResNet of timm with features F (1 + Mask(F)) after each of its stages, then dropout and one linear layer.

    "Facial expression recognition using residual masking network", ICPR 2020; github.com/phamquiluan/
    ResidualMaskingNetwork. With ResNet-34 it has 137.8 M parameters; the published 142.9 M count the masks' shortcut
    convolutions twice, which that code registers under two names. Pretrained weights are the ResNet's alone.

    Args:
        name: A timm ResNet with four stages.
        num_classes: Number of logits.
        channels: Input channels.
        image_size: Side of the input in pixels.
        pretrained: Whether to fetch the weights that timm has for this name.
        depths: Depth of the mask after each stage.
        dropout: Probability of dropping an input of the last layer.

    Raises:
        ValueError: As `TimmBody`, `name` is not a ResNet, or `depths` are not one a stage.
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
            raise ValueError(f"model.name={name} is not a ResNet with four stages, such as resnet34")
        widths = [stage["num_chs"] for stage in self.backbone.feature_info[1:]]
        if len(depths) != len(widths):
            raise ValueError(f"model.depths has {len(depths)} numbers; give each of the {len(widths)} stages its own")
        self.masks = nn.ModuleList(Mask(width, depth) for width, depth in zip(widths, depths, strict=True))

    def stages(self) -> list[nn.Module]:
        """The ResNet's stem, then its stages, each with its mask."""
        stem, *stages = super().stages()
        return [stem, *(nn.ModuleList(pair) for pair in zip(stages, self.masks, strict=True))]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of normalised images (B, channels, image_size, image_size)."""
        resnet = self.backbone
        features = resnet.maxpool(resnet.act1(resnet.bn1(resnet.conv1(images))))
        for stage, mask in zip((resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4), self.masks, strict=True):
            features = stage(features)
            features = features * (1 + mask(features))
        logits: Tensor = self.head(resnet.global_pool(features))
        return logits
