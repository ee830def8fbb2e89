"""The residual block that several networks share."""

from __future__ import annotations

from timm.layers.drop import DropPath
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

from fer_lightning.models.layers import conv_norm_relu


class ResidualBlock(nn.Module):
    """ReLU(x + f(x)); f is two Conv3x3-BatchNorm with a ReLU between (He et al. 2016, arXiv 1512.03385, fig. 2).

    If channels or size change, x passes through a 1x1 convolution and BatchNorm. The weight of the last BatchNorm of f
    is initialised to 1: with 0, where a block starts as its shortcut, small networks under SGD stay at chance on
    FER2013 for several epochs.

    Args:
        in_channels: Channels of x.
        out_channels: Channels of the output.
        stride: Stride of the first convolution.
        squeeze_excite: Whether f ends in a channel gate (Hu et al. 2018, arXiv 1709.01507), with a bottleneck of about
            1/16 of the channels, rounded to a multiple of 8.
        drop_path: Probability of skipping f for an image in training (Huang et al. 2016, arXiv 1603.09382).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        squeeze_excite: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *conv_norm_relu(in_channels, out_channels, stride=stride),
            *conv_norm_relu(out_channels, out_channels)[:-1],
        )
        if squeeze_excite:
            self.residual.append(SEModule(out_channels, rd_ratio=1 / 16))
        if drop_path:
            self.residual.append(DropPath(drop_path))
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Return features (B, out_channels, h / stride, w / stride) for features (B, in_channels, h, w)."""
        out: Tensor = self.relu(self.shortcut(features) + self.residual(features))
        return out
