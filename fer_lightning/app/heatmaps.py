"""Heat maps of the image regions that support a class: Grad-CAM for torch networks, occlusion maps for any model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fer_lightning.models.network import FERNetwork

HeatMap = NDArray[np.float32]
"""(h, w) in [0, 1] with a maximum of 1, or all 0 if no region supports the class."""


def grad_cam(network: FERNetwork, face: NDArray[np.float32], target: int) -> HeatMap | None:
    """Grad-CAM on the last feature map (Selvaraju et al. 2017, equations 1 and 2).

    Args:
        network: Network in evaluation mode; no other thread may use it during the call.
        face: (C, H, W) in [0, 1].
        target: Index of the class.

    Returns:
        Heat map of the size of the feature map, or of the face if the network crops (`FERNetwork.crop`); None if the
        network ends in tokens (transformers), which have no feature map.
    """
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from fer_lightning.models.tta import centre_crop

    last: list[Tensor] = []

    def record(value: Any) -> None:
        if isinstance(value, Tensor) and value.ndim == 4 and min(value.shape[2:]) > 1:
            last[:] = [value]
        elif isinstance(value, Tensor) and value.ndim == 3:
            last.clear()

    hooks = []
    for module in network.body.modules():
        hooks.append(module.register_forward_pre_hook(lambda _, inputs: record(inputs[0] if inputs else None)))
        hooks.append(module.register_forward_hook(lambda _, __, output: record(output)))
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits = network(torch.from_numpy(face)[None].requires_grad_())
            if not last:
                return None
            [features] = last
            [gradient] = torch.autograd.grad(logits[0, target], features)
    finally:
        for hook in hooks:
            hook.remove()
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat_map = (weights * features).sum(dim=1, keepdim=True).relu().detach()
    if network.crop != 1:
        full_size = heat_map.new_zeros((1, 1, *face.shape[-2:]))
        [centre] = centre_crop(full_size, network.crop)
        centre.copy_(F.interpolate(heat_map, centre.shape[-2:], mode="bilinear"))
        heat_map = full_size
    return _normalise(heat_map[0, 0].numpy())


def occlusion_map(
    probabilities: Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]], face: NDArray[np.float32], target: int
) -> HeatMap:
    """Decrease of a class's probability when a square of the face is occluded (Zeiler and Fergus 2014, section 4.2).

    The square has a quarter of the face's side, a stride of a third of its own side and the face's mean colour; the
    value of a pixel is the mean over the squares that cover it.

    Args:
        probabilities: Maps (B, C, S, S) to (B, classes).
        face: (C, S, S) in [0, 1].
        target: Index of the class.

    Returns:
        Heat map (S, S).
    """
    size = face.shape[-1]
    side = max(1, size // 4)
    starts = sorted({*range(0, size - side, max(1, side // 3)), size - side})
    original = probabilities(face[None])[0, target]
    drops, counts = np.zeros((size, size)), np.zeros((size, size))
    for top in starts:
        occluded = np.repeat(face[None], len(starts), axis=0)
        for image, left in zip(occluded, starts, strict=True):
            image[:, top : top + side, left : left + side] = face.mean(axis=(1, 2), keepdims=True)
        for probability, left in zip(probabilities(occluded)[:, target], starts, strict=True):
            drops[top : top + side, left : left + side] += original - probability
            counts[top : top + side, left : left + side] += 1
    return _normalise((drops / counts).clip(0))


def _normalise(values: NDArray[Any]) -> HeatMap:
    maximum = values.max()
    return np.asarray(values / maximum if maximum > 0 else values, np.float32)
