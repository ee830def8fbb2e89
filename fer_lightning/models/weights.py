"""Files with the weights of a network: loading, their provenance, and a limit for the memory that they may ask for."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from fer_lightning.files import one_line
from fer_lightning.models.torch_file import read_torch_file
from fer_lightning.run_folder import best_checkpoint

if TYPE_CHECKING:
    from fer_lightning.models.network import FERNetwork


@contextmanager
def limit_parameter_bytes(limit: int) -> Iterator[None]:
    """Limit the bytes of all parameters that this thread creates within the context.

    Raises:
        ValueError: The parameters exceed the limit; raised before the one that exceeds it is initialised.
    """
    remaining, thread = limit, get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal remaining
        if parameter is not None and get_ident() == thread:
            remaining -= parameter.nbytes
            if remaining < 0:
                raise ValueError(f"its network has more than {limit:,} bytes of parameters")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def load_weights(network: FERNetwork, path: Path) -> None:
    """Load weights from a file into a network or its timm backbone.

    Args:
        network: Changed in place.
        path: `.safetensors`, or `.pt`, `.pth`, `.ckpt`, of which no code is run. It holds either the whole network
            (the state dict of a `FERNetwork`, or a checkpoint of this project; normalisation included), or a
            backbone with timm's parameter names.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file cannot be read, or its weights do not match exactly; the message gives the reason.
    """
    weights = _read_weights(path)
    try:
        if any(key.startswith("body.") for key in weights):
            network.load_state_dict(weights)
        elif hasattr(network.body, "load_backbone"):
            network.body.load_backbone(weights)
        else:
            first_key = next(iter(weights), "none")
            raise ValueError(f"model.weights={path} holds no weights of this network (its first key: {first_key})")
    except RuntimeError as error:  # of torch or timm, with one line per mismatch
        reasons = [textwrap.shorten(line, 200) for line in str(error).splitlines()[1:4]] or [str(error)]
        raise ValueError(f"model.weights={path} does not fit this model: {' '.join(reasons)}") from error


def weights_origin(path: Path) -> dict[str, Any]:
    """Return the provenance in a weights file (data, protocol, earlier trainings), empty if it has none.

    Args:
        path: A file for `load_weights`; a checkpoint of this project or a `.safetensors` with metadata has one.
    """
    if not path.is_file():
        return {}
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                return {**metadata, "earlier": json.loads(metadata.get("earlier", "[]"))}
        return dict(read_torch_file(path, mmap=True)["hyper_parameters"]["provenance"] or {})
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError):  # not a file of this project
        return {}


def check_weights_file(path: Path) -> None:
    """Check that `model.weights` is a file.

    Raises:
        FileNotFoundError: The path does not exist or is a folder.
    """
    if path.is_dir():
        raise FileNotFoundError(f"model.weights={path} is a folder; for a run, give {best_checkpoint(path)}")
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
            prefix = "network."  # in a checkpoint of this project
            network_weights = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
            return network_weights or dict(weights)
    except (SafetensorError, ValueError, AttributeError) as error:
        raise ValueError(f"model.weights={path} cannot be read as weights ({one_line(error)})") from error
    raise ValueError(f"model.weights={path} must be a .safetensors file, or .pt, .pth, .ckpt")
