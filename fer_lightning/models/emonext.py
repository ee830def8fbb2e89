"""EmoNeXt: a ConvNeXt after a spatial transformer, with channel gates between its stages (El Boudouri & Bohi 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

from fer_lightning.models.timm_body import TimmBody


class SpatialTransformer(nn.Module):
    """Predicts an affine transform from an image and applies it (Jaderberg et al. 2015, arXiv 1506.02025).

    At initialisation the transform is the identity.

    Args:
        channels: Channels of the image.
        image_size: Side of the image in pixels.

    Raises:
        ValueError: The image is too small for the two convolutions and poolings.
    """

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        side = ((image_size - 6) // 2 - 4) // 2
        if side < 1:
            raise ValueError(
                f"model.image_size={image_size} is too small for SpatialTransformer; it must be at least 18"
            )
        self.look = nn.Sequential(
            nn.Conv2d(channels, 8, kernel_size=7),
            nn.BatchNorm2d(8),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 10, kernel_size=5),
            nn.BatchNorm2d(10),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
        )
        last = nn.Linear(32, 6)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.change = nn.Sequential(nn.Linear(10 * side**2, 32), nn.ReLU(inplace=True), last)
        self.register_buffer("identity", torch.eye(2, 3), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return transformed images of shape (B, channels, image_size, image_size), with zeros outside the original."""
        change = self.change(self.look(images).flatten(start_dim=1)).view(-1, 2, 3).float()
        device = images.device.type
        autocast = device if torch.amp.is_autocast_available(device) else "cpu"  # meta has no autocast
        with torch.autocast(autocast, enabled=False):  # half precision is too coarse for pixel coordinates
            grid = F.affine_grid(self.get_buffer("identity") + change, list(images.shape), align_corners=True)
            return F.grid_sample(images.float(), grid, align_corners=True)


class EmoNeXt(TimmBody):
    """A timm ConvNeXt after a spatial transformer, with a channel gate after each of its three downsamplings.

    "EmoNeXt: an adapted ConvNeXt for facial emotion recognition", MMSP 2023; github.com/yelboudouri/EmoNeXt. Its third
    addition is omitted: attention between the images of a batch, whose output is discarded and whose weight
    variance is added to the loss. It does not affect predictions. Pretrained weights are the ConvNeXt's.

    Args:
        name: Name of a timm ConvNeXt.
        num_classes: Number of logits.
        channels: Input channels.
        image_size: Side of the input in pixels.
        pretrained: Whether to download the weights that timm publishes for this name.
        dropout: Probability of dropping an input of the last layer.
        drop_path: Probability of skipping the last block's residual in training; rises linearly from 0 at the first.

    Raises:
        ValueError: As for `TimmBody`; or `name` is not a ConvNeXt, or `image_size` is too small.
    """

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        channels: int,
        image_size: int,
        pretrained: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        if not name.startswith(("convnext", "test_convnext")):  # before any download
            raise ValueError(f"model.name={name} is not a ConvNeXt; give one such as convnext_tiny")
        super().__init__(
            name,
            num_classes=num_classes,
            channels=channels,
            image_size=image_size,
            pretrained=pretrained,
            dropout=dropout,
            drop_path=drop_path,
        )
        self.transformer = SpatialTransformer(channels, image_size)
        widths = [stage["num_chs"] for stage in self.backbone.feature_info[1:]]
        self.gates = nn.ModuleList(SEModule(width, rd_ratio=1 / 16, rd_divisor=1, bias=False) for width in widths)

    def stages(self) -> list[nn.Module]:
        """Return the stem with the spatial transformer, then the stages; all but the first include their gate."""
        stem, first, *others = super().stages()
        gated = [nn.ModuleList(pair) for pair in zip(others, self.gates, strict=False)]
        return [nn.ModuleList([stem, self.transformer]), first, *gated, *others[len(gated) :]]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) for normalised images (B, channels, image_size, image_size)."""
        convnext = self.backbone
        features = convnext.stem(self.transformer(images))
        for number, stage in enumerate(convnext.stages):
            features = stage.downsample(features)
            features = stage.blocks(self.gates[number - 1](features) if number else features)
        logits: Tensor = self.head(convnext.forward_head(convnext.norm_pre(features)))
        return logits
