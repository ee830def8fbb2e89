"""EmoNeXt: a ConvNeXt behind a spatial transformer, with channel gates between its stages (El Boudouri & Bohi 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

from fer_lightning.models.timm_body import TimmBody


class SpatialTransformer(nn.Module):
    """Looks at a picture and turns, moves and scales it by an affine map (Jaderberg et al. 2015, arXiv 1506.02025).

    It begins as the identity.

    Args:
        channels: Of the picture.
        image_size: Its side in pixels.

    Raises:
        ValueError: The picture is too small for its two convolutions and poolings.
    """

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        side = ((image_size - 6) // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"model.image_size={image_size} is too small for a SpatialTransformer; at least 18")
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
        self.register_buffer("same", torch.eye(2, 3), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Changed images of the same shape (B, channels, image_size, image_size); 0 beyond their border."""
        change = self.change(self.look(images).flatten(start_dim=1)).view(-1, 2, 3).float()
        kind = images.device.type if torch.amp.is_autocast_available(images.device.type) else "cpu"  # meta has none
        with torch.autocast(kind, enabled=False):  # half precision cannot address pixels
            grid = F.affine_grid(self.get_buffer("same") + change, list(images.shape), align_corners=True)
            return F.grid_sample(images.float(), grid, align_corners=True)


class EmoNeXt(TimmBody):
    """A ConvNeXt of timm behind a spatial transformer, with a channel gate after each of its three downsamplings.

    "EmoNeXt: an adapted ConvNeXt for facial emotion recognition", MMSP 2023; github.com/yelboudouri/EmoNeXt. Its third
    addition is left out: attention between the pictures of a batch whose answer is thrown away and whose weights'
    variance is added to the loss. It takes no part in an answer. Pretrained weights are the ConvNeXt's.

    Args:
        name: A timm ConvNeXt.
        num_classes: Number of logits.
        channels: Input channels.
        image_size: Side of the input in pixels.
        pretrained: Whether to fetch the weights that timm has for this name.
        dropout: Probability of dropping an input of the last layer.
        drop_path: Probability of leaving out the last block's residual in training; rises evenly from 0 at the first.

    Raises:
        ValueError: As `TimmBody`, `name` is not a ConvNeXt, or `image_size` is too small.
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
        if not name.startswith(("convnext", "test_convnext")):  # before anything of it is fetched
            raise ValueError(f"model.name={name} is not a ConvNeXt, such as convnext_tiny")
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
        """The spatial transformer with the stem, then the ConvNeXt's stages, each but the first with its gate."""
        stem, first, *others = super().stages()
        gated = [nn.ModuleList(pair) for pair in zip(others, self.gates, strict=False)]
        return [nn.ModuleList([stem, self.transformer]), first, *gated, *others[len(gated) :]]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of normalised images (B, channels, image_size, image_size)."""
        convnext = self.backbone
        features = convnext.stem(self.transformer(images))
        for number, stage in enumerate(convnext.stages):
            features = stage.downsample(features)
            features = stage.blocks(self.gates[number - 1](features) if number else features)
        logits: Tensor = self.head(convnext.forward_head(convnext.norm_pre(features)))
        return logits
