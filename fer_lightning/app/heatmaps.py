"""Heat maps of what a network looked at: Grad-CAM for networks in torch, an occlusion map for any."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fer_lightning.models.network import FERNetwork

HeatMap = NDArray[np.float32]
"""(h, w) in [0, 1], its highest value 1; all 0 where nothing speaks for the class."""


def grad_cam(network: FERNetwork, face: NDArray[np.float32], target: int) -> HeatMap | None:
    """Where the last feature map raised a class's logit (Selvaraju et al. 2017, equations 1 and 2).

    Args:
        network: In evaluation mode; not to be used by another thread meanwhile.
        face: (C, H, W) in [0, 1].
        target: The class.

    Returns:
        A map of the size of the feature map, or of the face where the network crops (`FERNetwork.crop`); None where it
        ends in tokens (transformers), which have no such map.
    """
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from fer_lightning.models.tta import centre_crop

    last: list[Tensor] = []

    def see(passed: Any) -> None:
        if isinstance(passed, Tensor) and passed.ndim == 4 and min(passed.shape[2:]) > 1:
            last[:] = [passed]
        elif isinstance(passed, Tensor) and passed.ndim == 3:
            last.clear()

    hooks = []
    for module in network.body.modules():
        hooks.append(module.register_forward_pre_hook(lambda _, inputs: see(inputs[0] if inputs else None)))
        hooks.append(module.register_forward_hook(lambda _, __, output: see(output)))
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
    found = (weights * features).sum(dim=1, keepdim=True).relu().detach()
    if network.crop != 1:
        whole = found.new_zeros((1, 1, *face.shape[-2:]))
        [centre] = centre_crop(whole, network.crop)
        centre.copy_(F.interpolate(found, centre.shape[-2:], mode="bilinear"))
        found = whole
    return _normalised(found[0, 0].numpy())


def occlusion_map(
    probabilities: Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]], face: NDArray[np.float32], target: int
) -> HeatMap:
    """How far a class's probability falls when a square of the face is covered (Zeiler and Fergus 2014, section 4.2).

    The square has a quarter of the side, moves by a third of its own side and has the face's mean colour; a pixel gets
    the mean of the squares over it.

    Args:
        probabilities: From (B, C, S, S) to (B, classes).
        face: (C, S, S) in [0, 1].
        target: The class.

    Returns:
        (S, S).
    """
    size = face.shape[-1]
    side = max(1, size // 4)
    starts = sorted({*range(0, size - side, max(1, side // 3)), size - side})
    before = probabilities(face[None])[0, target]
    drops, covers = np.zeros((size, size)), np.zeros((size, size))
    for top in starts:
        covered = np.repeat(face[None], len(starts), axis=0)
        for picture, left in zip(covered, starts, strict=True):
            picture[:, top : top + side, left : left + side] = face.mean(axis=(1, 2), keepdims=True)
        for after, left in zip(probabilities(covered)[:, target], starts, strict=True):
            drops[top : top + side, left : left + side] += before - after
            covers[top : top + side, left : left + side] += 1
    return _normalised((drops / covers).clip(0))


def _normalised(values: NDArray[Any]) -> HeatMap:
    top = values.max()
    return np.asarray(values / top if top > 0 else values, np.float32)
