"""FERNetwork: the complete graph from pixels to logits, and its construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_lightning.config import build, target_of
from fer_lightning.models.tta import centre_crop
from fer_lightning.models.weights import load_weights

MAX_SIDE = 1024
"""Largest `image_size` in pixels that a network may have."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in the RGB to gray conversion of Pillow and OpenCV
_PACKAGE = "fer_lightning.models."


class FERNetwork(nn.Module):
    """A body with its preprocessing: channels, size and normalisation, so that every export includes it.

    Args:
        body: Maps normalised images (B, channels, image_size, image_size) to logits (B, num_classes). It
            has a `head` module and `stages()`, its feature modules from input to output.
        image_size: Side of the body's input in pixels.
        channels: Channels of the body's input, 1 (gray) or 3 (RGB).
        mean: Subtracted from pixels in [0, 1]; one number, or one per channel.
        std: Divides the difference; one number, or one per channel.

    Attributes:
        temperature: Divides the logits (Guo et al. 2017); an export sets it to calibrate the confidences.
        crop: Fraction of an image's side that the network sees, around the centre; below 1 for a network that was
            trained on crops and is given whole images.

    Raises:
        ValueError: `channels`, `mean` or `std` is invalid.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor
    temperature = 1.0
    crop = 1.0

    def __init__(
        self,
        body: nn.Module,
        *,
        image_size: int,
        channels: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
    ) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"model.channels is {channels}; it must be 1 (gray) or 3 (RGB)")
        self.body: Any = body
        self.image_size = image_size
        self.channels = channels
        for name, value in (("mean", mean), ("std", std)):
            try:
                values = torch.as_tensor(value, dtype=torch.float32).flatten()
            except (TypeError, ValueError, RuntimeError, OverflowError):
                raise ValueError(
                    f"model.{name} is {value!r}; it must be a number, or a list with one per channel"
                ) from None
            if len(values) not in (1, channels):
                raise ValueError(f"model.{name} has {len(values)} values, but model.channels is {channels}")
            self.register_buffer(name, values.expand(channels).clone().view(channels, 1, 1))
        if self.std.min() <= 0:
            raise ValueError(f"model.std is {std}; it must be above 0")
        luma = torch.tensor(_LUMA).view(3, 1, 1)
        self.register_buffer("luma", luma, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits.

        Args:
            images: Float (B, 1 or 3, H, W) in [0, 1].

        Returns:
            Float (B, num_classes).

        Raises:
            ValueError: The images have neither 1 nor 3 channels.
        """
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images have {images.shape[1]} channels; they must have 1 (gray) or 3 (RGB)")
        if self.crop != 1:
            [images] = centre_crop(images, self.crop)
        if images.shape[1] > self.channels:
            images = (images * self.luma).sum(dim=1, keepdim=True)
        height, width = images.shape[-2:]
        size = self.image_size
        if (height, width) != (size, size):
            downscales = height > size or width > size
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=downscales)
        if images.shape[1] < self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        logits: Tensor = self.body((images - self.mean) / self.std)
        return logits if self.temperature == 1 else logits / self.temperature


def build_network(config: Mapping[str, Any], num_classes: int) -> FERNetwork:
    """Build the network that conf/model describes.

    Args:
        config: `_target_` (a body of this package), `image_size`, `channels`, `mean`, `std`, optionally
            `weights` (a file for `load_weights`, instead of the download by `pretrained`), and the options
            of the body.
        num_classes: Number of logits.

    Raises:
        ValueError: A setting is invalid; the message names it.
        FileNotFoundError: The weights file does not exist.
    """
    size = check_image_size(config.get("image_size"))
    try:
        body = build_body(config, num_classes, fetch_pretrained=not config.get("weights"))
        network = FERNetwork(
            body,
            image_size=size,
            channels=config["channels"],
            mean=config["mean"],
            std=config["std"],
        )
    except KeyError as error:
        raise ValueError(f"model.{error.args[0]} is missing") from None
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"the model's options do not fit {config['_target_']}: {error}") from error
    if config.get("weights"):
        load_weights(network, Path(config["weights"]))
    return network


def build_body(config: Mapping[str, Any], num_classes: int, *, fetch_pretrained: bool) -> nn.Module:
    """Build the body of the network that conf/model describes.

    Args:
        config: As for `build_network`.
        num_classes: Number of logits.
        fetch_pretrained: Whether to download weights if `pretrained` is set.

    Raises:
        ValueError: The target is not a body of this package, or its options are invalid.
    """
    if missing := [key for key, value in config.items() if value == "???"]:
        raise ValueError(f"model.{missing[0]} must be given, for example `model=timm model.name=resnet34`")
    options = {key: value for key, value in config.items() if key not in ("mean", "std", "weights")}
    if "pretrained" in options and not fetch_pretrained:
        options["pretrained"] = False
    target = target_of(config, under=(_PACKAGE,))  # the config may come from an untrusted checkpoint
    if not (isinstance(target, type) and issubclass(target, nn.Module)):
        raise ValueError(f"model._target_ {config['_target_']} is not a network")
    body: nn.Module = build(options, num_classes=num_classes)
    return body


def check_image_size(size: object) -> int:
    """Return the size if it is valid; the maximum bounds the memory.

    Raises:
        ValueError: It is not an integer from 1 to `MAX_SIDE`.
    """
    if not isinstance(size, int) or not 1 <= size <= MAX_SIDE:
        raise ValueError(f"model.image_size is {size!r}; it must be a whole number from 1 to {MAX_SIDE}")
    return size


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())


def training_input_size(network: FERNetwork, image_shape: Sequence[int]) -> tuple[int, int]:
    """Return the side in pixels and the channels of the images for a network.

    They are those of its training images, but at most the network's own: a network that enlarges 48 px to 224 px was
    trained on enlarged images, and sharp ones would be out of distribution. For a network that crops (`crop`), the size
    is that of the whole image.

    Args:
        network: The network.
        image_shape: Shape of the images that it was trained on, (H, W) or (H, W, 3).
    """
    size = min(round(network.image_size / network.crop), max(image_shape[:2]))
    return size, min(network.channels, 3 if len(image_shape) == 3 else 1)


def is_dense(module: nn.Module) -> bool:
    """Whether all convolutions are dense: none is grouped or depthwise."""
    return all(layer.groups == 1 for layer in module.modules() if isinstance(layer, nn.Conv2d))
