"""FERNetwork: the whole graph from pixels to logits."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from fer_lightning.config import build, target_of
from fer_lightning.files import one_line
from fer_lightning.models.torch_file import read_torch_file
from fer_lightning.models.tta import centre_crop
from fer_lightning.run_folder import best_checkpoint

MAX_SIDE = 1024
"""Pixels a side that a network may be built for."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and OpenCV turn RGB to gray
_PACKAGE = "fer_lightning.models."


class FERNetwork(nn.Module):
    """A body with everything before it: channels, size and normalisation, so that no export can lose them.

    Args:
        body: From normalised images (B, channels, image_size, image_size) to logits (B, num_classes). It
            has a `head` module and `stages()`, its feature modules from input to output.
        image_size: Side in pixels of what the body sees.
        channels: 1 (gray) or 3 (RGB), what the body sees.
        mean: Subtracted from pixels in [0, 1]; one number, or one a channel.
        std: Divides afterwards; one number, or one a channel.

    Attributes:
        temperature: Divides the logits (Guo et al. 2017); an export sets what makes its confidences true.
        crop: Share of the side of an image that the network sees, around its centre; below 1 where it was trained on
            crops and is given whole images.

    Raises:
        ValueError: `channels`, `mean` or `std` cannot be.
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
                    f"model.{name} is {value!r}; it must be a number, or a list of one a channel"
                ) from None
            if len(values) not in (1, channels):
                raise ValueError(f"model.{name} has {len(values)} values, but model.channels is {channels}")
            self.register_buffer(name, values.expand(channels).clone().view(channels, 1, 1))
        if self.std.min() <= 0:
            raise ValueError(f"model.std is {std}; it must be above 0")
        luma = torch.tensor(_LUMA).view(3, 1, 1)
        self.register_buffer("luma", luma, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits.

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
            shrinks = height > size or width > size
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=shrinks)
        if images.shape[1] < self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        logits: Tensor = self.body((images - self.mean) / self.std)
        return logits if self.temperature == 1 else logits / self.temperature


def build_network(config: Mapping[str, Any], num_classes: int) -> FERNetwork:
    """The network that conf/model describes.

    Args:
        config: `_target_` (a body of this package), `image_size`, `channels`, `mean`, `std`, optionally
            `weights` (a file for `load_weights`, in place of what `pretrained` would fetch), and the body's
            own options.
        num_classes: Number of logits.

    Raises:
        ValueError: A setting cannot be; the message names it.
        FileNotFoundError: There is no such weights file.
    """
    size = check_image_size(config.get("image_size"))
    try:
        body = build_body(config, num_classes, fetches=not config.get("weights"))
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


def build_body(config: Mapping[str, Any], num_classes: int, *, fetches: bool) -> nn.Module:
    """The body of the network that conf/model describes.

    Args:
        config: As for `build_network`.
        num_classes: Number of logits.
        fetches: Whether `pretrained` is followed.

    Raises:
        ValueError: It is no body of this package, or its options are not those that it takes.
    """
    if missing := [key for key, value in config.items() if value == "???"]:
        raise ValueError(f"model.{missing[0]} must be given, for example `model=timm model.name=resnet34`")
    options = {key: value for key, value in config.items() if key not in ("mean", "std", "weights")}
    if "pretrained" in options and not fetches:
        options["pretrained"] = False
    found = target_of(config, under=(_PACKAGE,))  # a config may come with somebody's checkpoint
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"model._target_ {config['_target_']} is not a network")
    body: nn.Module = build(options, num_classes=num_classes)
    return body


def check_image_size(size: object) -> int:
    """The size, unless it is too large for anybody's memory.

    Raises:
        ValueError: It is no whole number from 1 to `MAX_SIDE`.
    """
    if not isinstance(size, int) or not 1 <= size <= MAX_SIDE:
        raise ValueError(f"model.image_size is {size!r}; it must be a whole number from 1 to {MAX_SIDE}")
    return size


@contextmanager
def parameters_within(size: int) -> Iterator[None]:
    """Bounds the parameters of the networks that this thread builds meanwhile, in bytes.

    Raises:
        ValueError: They need more; none that is too large has been filled by then.
    """
    left, thread = size, get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        if parameter is not None and get_ident() == thread:
            left -= parameter.nbytes
            if left < 0:
                raise ValueError(f"the network that it describes has over {size:,} bytes of parameters")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def load_weights(network: FERNetwork, path: Path) -> None:
    """Loads a file into a network: all of it, or its timm backbone.

    Args:
        network: Changed in place.
        path: `.safetensors`, or `.pt`, `.pth`, `.ckpt` read as data alone. Either the whole network (the
            state dict of a `FERNetwork`, or a checkpoint of this project; normalisation included), or a
            backbone in timm's naming.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, or its weights do not fit exactly; the message says which.
    """
    weights = _read_weights(path)
    try:
        if any(key.startswith("body.") for key in weights):
            network.load_state_dict(weights)
        elif hasattr(network.body, "load_backbone"):
            network.body.load_backbone(weights)
        else:
            example = next(iter(weights), "none at all")
            raise ValueError(f"model.weights={path} is not of this network: its keys are like {example}")
    except RuntimeError as error:  # torch's and timm's: one line for each way not to fit
        reasons = [textwrap.shorten(line, 200) for line in str(error).splitlines()[1:4]] or [str(error)]
        raise ValueError(f"model.weights={path} does not fit this model: {' '.join(reasons)}") from error


def weights_origin(path: Path) -> dict[str, Any]:
    """The provenance in a weights file: data and protocol; empty where it says nothing.

    Args:
        path: A checkpoint of this project, or `.safetensors` with metadata, for `load_weights`.
    """
    if not path.is_file():
        return {}
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                return dict(file.metadata() or {})
        return dict(read_torch_file(path)["hyper_parameters"]["provenance"] or {})
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError):  # no file of this project
        return {}


def check_weights_file(path: Path) -> None:
    """Says why `model.weights` names no file.

    Raises:
        FileNotFoundError: There is none, or the path is a folder.
    """
    if path.is_dir():
        raise FileNotFoundError(f"model.weights={path} is a folder: of a run give {best_checkpoint(path)}")
    if not path.is_file():
        raise FileNotFoundError(f"model.weights={path}: there is no such file")


def _read_weights(path: Path) -> dict[str, Tensor]:
    check_weights_file(path)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix in (".pt", ".pth", ".ckpt"):
            weights = read_torch_file(path)
            weights = weights.get("state_dict", weights)
            prefix = "network."  # of a checkpoint that this project wrote
            parts = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
            return parts or dict(weights)
    except (SafetensorError, ValueError, AttributeError) as error:
        raise ValueError(f"model.weights={path} cannot be read as weights ({one_line(error)})") from error
    raise ValueError(f"model.weights={path} must be a .safetensors file, or .pt, .pth, .ckpt")


def count_parameters(module: nn.Module) -> int:
    """Number of weights, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())


def size_learnt_from(network: FERNetwork, picture: Sequence[int]) -> tuple[int, int]:
    """Size and channels of the pictures to show a network: those of its training, but no more than it looks at.

    A network that enlarges 48 px to 224 px learnt from enlarged pictures, and would not know sharp ones. Of a network
    that crops (`crop`), the size is that of the whole picture.

    Args:
        network: The network.
        picture: Shape of the pictures that it was trained on, (H, W) or (H, W, 3).
    """
    size = min(round(network.image_size / network.crop), max(picture[:2]))
    return size, min(network.channels, 3 if len(picture) == 3 else 1)


def is_dense(module: nn.Module) -> bool:
    """Whether no convolution is grouped or depthwise."""
    return all(layer.groups == 1 for layer in module.modules() if isinstance(layer, nn.Conv2d))
