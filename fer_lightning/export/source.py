"""The source of an export: a trained network or an ensemble, with the data of its run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fer_lightning.models.ensemble import Ensemble
from fer_lightning.models.network import FERNetwork, training_input_size
from fer_lightning.overrides import train_command
from fer_lightning.reporting import records
from fer_lightning.run_folder import RECORD, run_of
from fer_lightning.studies.ensemble.members import check_compatible
from fer_lightning.studies.trained import TrainedRun
from fer_lightning.training.checkpoint_io import checkpoint_of
from fer_lightning.training.soft_voting import ensemble_members


@dataclass(frozen=True)
class ExportSource:
    """A trained network or an ensemble.

    Attributes:
        folder: Folder of the run or ensemble.
        nets: One or more trained networks with the same data, protocol and classes.
        weights: Weight of each network's vote, above 0, with a sum of 1.
        command: Command that trains the network or builds the ensemble.
    """

    folder: Path
    nets: Sequence[TrainedRun]
    weights: Sequence[float]
    command: str

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str]) -> ExportSource:
        """Load the networks and open their data.

        Args:
            path: A checkpoint, or the folder of a run or ensemble.
            overrides: Hydra overrides, applied after those of each run.

        Raises:
            FileNotFoundError: A checkpoint does not exist.
            ValueError: A checkpoint was not written by this project, a network was trained on images of its val or test
                part, or the networks are incompatible.
        """
        members = ensemble_members(path)
        nets = [TrainedRun.load(checkpoint, overrides) for checkpoint, _ in members]
        for net in nets[1:]:
            check_compatible(nets[0], net)
        for net in nets:
            net.check_not_trained_on("val")
            net.check_not_trained_on("test")
        weights = [weight for _, weight in members]
        if members[0][0] == checkpoint_of(path):
            return cls(run_of(nets[0].checkpoint), nets, weights, training_command(nets[0]))
        return cls(path, nets, weights, str(records.read_record(path / RECORD, "command")["command"]))

    @property
    def first(self) -> TrainedRun:
        """The first network; its data, protocol and classes are those of all."""
        return self.nets[0]

    def network(self) -> FERNetwork | Ensemble:
        """Return a new module that maps images to logits, float32 on the CPU, ready for export."""
        networks = [copy_for_export(net.module.network_for_whole_images()) for net in self.nets]
        return Ensemble(networks, self.weights).eval().requires_grad_(False) if len(networks) > 1 else networks[0]

    def graph_input(self) -> tuple[int, int]:
        """Size in pixels and channels (1 or 3) of the graph's input: the maximum over all networks."""
        inputs = [
            training_input_size(
                net.module.network_for_whole_images(), net.provenance.get("image_shape") or net.faces.images.shape[1:]
            )
            for net in self.nets
        ]
        return max(size for size, _ in inputs), max(channels for _, channels in inputs)


def training_command(net: TrainedRun) -> str:
    """Command that repeats the training of a network, with passwords removed."""
    return train_command([*net.config_sources, *net.provenance["overrides"]])


def copy_for_export(network: FERNetwork) -> FERNetwork:
    """Copy a network to the CPU as float32, contiguous, in evaluation mode and without gradients."""
    copied = copy.deepcopy(network).cpu().float().eval()
    copied.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # missing in torch's stubs
    return copied.requires_grad_(False)
