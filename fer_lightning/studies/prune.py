"""`python -m fer_lightning prune checkpoint=... model.widths=[...]`: prunes a trained network to a narrower one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fer_lightning.cli.verb import checkpoint_verb
from fer_lightning.config import to_container
from fer_lightning.files import atomic_write, check_writable
from fer_lightning.models.channel_pruning import prune_channels
from fer_lightning.models.cost import latency, multiply_accumulates
from fer_lightning.models.network import FERNetwork, build_network, count_parameters
from fer_lightning.overrides import drop_overrides, merge_overrides, train_command
from fer_lightning.run.trainer import quiet
from fer_lightning.studies.trained import TrainedRun
from fer_lightning.training.metrics import Predictions

HELP = """usage: python -m fer_lightning prune checkpoint=RUN model.KEY=NARROWER [key=value ...]

Removes the least important channels of a trained network until it matches a narrower one of the same architecture, and
reports the loss in accuracy on the val part and the savings; latency is that of one face on one CPU thread. The weights
are saved to RUN/pruned.safetensors, and the command that fine-tunes them is printed.

  python -m fer_lightning prune checkpoint=RUN 'model.widths=[16,56,136]'
"""


def prune(path: Path, overrides: Sequence[str]) -> Path:
    """Prune a trained network to a narrower one, save its weights and report its accuracy and cost.

    Args:
        path: A checkpoint, or a run's folder.
        overrides: Hydra overrides on top of those of the run; those of `model` define the narrower network.

    Returns:
        The path of the weights.

    Raises:
        ValueError: The network cannot be pruned to that one.
    """
    quiet()
    trained = TrainedRun.load(path, overrides, another_model=True)
    file = trained.run / "pruned.safetensors"
    check_writable(file, "checkpoint")
    original = trained.module.network
    model = {
        key: value for key, value in to_container(trained.config.model).items() if key not in ("pretrained", "weights")
    }
    pruned = build_network(model, num_classes=len(trained.module.classes))  # its weights are set by the pruning
    if file.exists() and _shapes(safetensors.torch.load_file(file)) != _shapes(pruned.state_dict()):
        raise ValueError(f"{file} holds this network pruned to another size: move it away first")
    rows = [_row("trained", original, trained.predictions("val"))]
    prune_channels(original, pruned)
    trained.module.network = pruned
    rows.append(_row("pruned", pruned, trained.predict("val")))
    origin = {key: trained.provenance[key] for key in ("data", "data_fingerprint", "protocol")}
    origin["earlier"] = json.dumps(trained.provenance.get("earlier", []))
    with atomic_write(file) as aside:
        safetensors.torch.save_file(pruned.state_dict(), aside, metadata=origin)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("", "parameters", "MACs", "latency", "val accuracy"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print("", table, "")
    training = merge_overrides(drop_overrides(trained.provenance["overrides"], "paths", "resume"), overrides)
    rate = trained.config.optimizer.lr / 4
    changes = [f"model.weights={file}", f"optimizer.lr={rate:g}", "trainer.max_epochs=20"]
    command = train_command([*trained.config_sources, *merge_overrides(training, changes)])
    console.print(
        f"saved to {file}. Fine-tune it, for any number of epochs:\n{command}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return file


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _row(name: str, network: FERNetwork, predictions: Predictions) -> list[str]:
    accuracy = (predictions.logits.argmax(dim=1) == predictions.labels).float().mean().item()
    millions = f"{multiply_accumulates(network) / 1e6:.1f} M"
    return [name, f"{count_parameters(network):,}", millions, f"{latency(network):.2f} ms", f"{accuracy:.2%}"]


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand and return its exit status."""
    return checkpoint_verb("prune", HELP, prune, arguments)
