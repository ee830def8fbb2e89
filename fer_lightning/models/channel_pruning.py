"""Structured pruning: removes the least important channels of a trained network."""

from __future__ import annotations

import torch
from torch import nn

from fer_lightning.models.network import FERNetwork


def prune_channels(network: FERNetwork, narrower: FERNetwork) -> None:
    """Copy the most important channels of a trained network to a narrower one.

    Layers that are added or feed each other keep the same channels. The importance of a channel is the L2 norm of all
    its weights in such a group of layers (Fang et al. 2023, DepGraph, arXiv 2301.12900, section 3.3).

    Args:
        network: The trained network; it is pruned in place to the size of the other.
        narrower: The same architecture with fewer channels in some layers; receives the weights.

    Raises:
        ValueError: `narrower` has another architecture, a wider layer or no narrower layer; or Torch-Pruning is not
            installed.
    """
    try:
        import torch_pruning
    except ModuleNotFoundError:
        raise ValueError("pruning needs Torch-Pruning: pip install -e '.[prune]'") from None
    wide, slim = dict(network.body.named_modules()), dict(narrower.body.named_modules())
    if [*wide] != [*slim] or any(type(wide[name]) is not type(slim[name]) for name in wide):
        different = (name for name in [*wide, *slim] if type(wide.get(name)) is not type(slim.get(name)))
        where = next(different, "their order") or "the network itself"  # the root module has no name
        raise ValueError(f"the narrower model has different layers ({where}): change only widths, not depths")
    surplus = {name: _width(layer) - _width(slim[name]) for name, layer in wide.items()}
    if wider := [name for name in surplus if surplus[name] < 0]:
        raise ValueError(f"layer {wider[0]} has {_width(wide[wider[0]])} channels; pruning cannot make it wider")
    if not any(surplus.values()):
        raise ValueError(
            "the narrower model is as wide as the trained one: give fewer channels, such as model.widths=[...]"
        )
    names = {layer: name for name, layer in wide.items()}
    network.cpu().eval()
    image = torch.zeros(1, network.channels, network.image_size, network.image_size)
    with torch.enable_grad():  # autograd traces the graph
        graph = torch_pruning.DependencyGraph().build_dependency(network.body, image)
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    for group in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        if count := surplus[names[group[0].dep.target.module]]:
            group.prune(idxs=importance(group).argsort()[:count].tolist())
    try:
        narrower.load_state_dict(network.state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"the trained network cannot be pruned to the narrower model: {reason}") from None


def _width(layer: nn.Module) -> int:
    """Return the output channels of a convolution or linear layer, 0 for any other."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels
    return layer.out_features if isinstance(layer, nn.Linear) else 0
