"""`python -m fer_lightning prune checkpoint=... model.widths=[...]`: a narrower net out of a trained one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fer_lightning.cli.verb import checkpoint_verb
from fer_lightning.config import plain
from fer_lightning.files import atomic_write, check_writable
from fer_lightning.models.channel_pruning import prune_channels
from fer_lightning.models.cost import latency, multiply_accumulates
from fer_lightning.models.network import FERNetwork, build_network, count_parameters
from fer_lightning.overrides import train_command, updated, without
from fer_lightning.run.trainer import quiet
from fer_lightning.studies.trained import Trained
from fer_lightning.training.metrics import Predictions

HELP = """usage: python -m fer_lightning prune checkpoint=RUN model.KEY=NARROWER [key=value ...]

Cuts the least important channels out of a trained net until it fits a narrower one of the same architecture, and shows
what that costs on the val part and what it saves; latency is that of one face on one CPU thread. The weights go to
RUN/pruned.safetensors, and the command that trains them on is printed.

  python -m fer_lightning prune checkpoint=RUN 'model.widths=[16,56,136]'
"""


def prune(path: Path, overrides: Sequence[str]) -> Path:
    """Cuts a trained net to a narrower one, writes its weights and shows what became of it.

    Args:
        path: A checkpoint, or a run's folder.
        overrides: Hydra overrides on top of those of the run; those of `model` name the narrower net.

    Returns:
        The file of the weights.

    Raises:
        ValueError: The net cannot be cut to that one.
    """
    quiet()
    net = Trained.load(path, overrides, another_model=True)
    file = net.run / "pruned.safetensors"
    check_writable(file, "checkpoint")
    whole = net.module.network
    model = {key: value for key, value in plain(net.config.model).items() if key not in ("pretrained", "weights")}
    narrower = build_network(model, num_classes=len(net.module.classes))  # its weights are those that are left
    if file.exists() and _shapes(safetensors.torch.load_file(file)) != _shapes(narrower.state_dict()):
        raise ValueError(f"{file} holds another cut of this net: move it away first")
    rows = [_row("trained", whole, net.predictions("val"))]
    prune_channels(whole, narrower)
    net.module.network = narrower
    rows.append(_row("pruned", narrower, net.predict("val")))
    origin = {key: net.provenance[key] for key in ("data", "data_fingerprint", "protocol")}
    with atomic_write(file) as aside:
        safetensors.torch.save_file(narrower.state_dict(), aside, metadata=origin)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("", "parameters", "MACs", "latency", "val accuracy"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print("", table, "")
    typed = updated(without(net.provenance["overrides"], "paths", "resume"), overrides)
    rate = net.config.optimizer.lr / 4
    words = updated(typed, [f"model.weights={file}", f"optimizer.lr={rate:g}", "trainer.max_epochs=20"])
    console.print(f"kept in {file}. To train it on, for as long as you like:", highlight=False, soft_wrap=True)
    console.print(train_command(words), highlight=False, soft_wrap=True)
    return file


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _row(name: str, network: FERNetwork, said: Predictions) -> list[str]:
    accuracy = (said.logits.argmax(dim=1) == said.labels).float().mean().item()
    millions = f"{multiply_accumulates(network) / 1e6:.1f} M"
    return [name, f"{count_parameters(network):,}", millions, f"{latency(network):.2f} ms", f"{accuracy:.2%}"]


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""
    return checkpoint_verb("prune", HELP, prune, arguments)
