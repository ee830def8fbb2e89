"""Knowledge distillation: a student is trained on the predictions of teachers for the same augmented images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.datamodule import Batch, FERDataModule
from fer_lightning.data.protocols.split import Split
from fer_lightning.data.provenance import Provenance, earlier_trainings, refusal_to_train
from fer_lightning.models.ensemble import Ensemble
from fer_lightning.training.errors import user_errors
from fer_lightning.training.module import FERModule, load_module
from fer_lightning.training.soft_voting import ensemble_members


class DistillationLoss(nn.Module):
    """Weighted sum of the losses on the labels and on a teacher's predictions (Hinton, Vinyals & Dean 2015, section 2).

    With y the labels' distribution, q and s those of teacher and student, both softened by the temperature T, the loss
    of an image is

        (1 - share) CE(y, student)  +  share T^2 CE(q, s)

    whose gradient is that of KL(q || s); T^2 keeps its size as T grows.

    Args:
        class_counts: Images of each class in the train split; not used.
        temperature: T > 0; 1 leaves the teacher's probabilities unchanged.
        share: Weight of the teacher's term, in [0, 1]; at 1 the labels are ignored.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, class_counts: Sequence[int], temperature: float, share: float) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"loss.temperature is {temperature}; it must be above 0")
        if not 0 <= share <= 1:
            raise ValueError(f"loss.share is {share}; it must be between 0 (labels only) and 1 (teacher only)")
        self.temperature = temperature
        self.share = share

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss of a batch.

        Args:
            logits: float (B, C), the student's.
            target: float (B, 2, C), the labels' distribution and the teacher's logits, as set by `Distiller`.

        Returns:
            A scalar, float32.

        Raises:
            ValueError: The batch has no teacher logits.
        """
        logits = logits.float()
        if target.ndim < 3:
            raise ValueError("loss=distillation needs a teacher, and there is none: add callbacks=distillation")
        labels, teacher = target.unbind(dim=1)
        soft = (teacher / self.temperature).softmax(dim=1)
        teacher_loss = self.temperature**2 * F.cross_entropy(logits / self.temperature, soft)
        return (1 - self.share) * F.cross_entropy(logits, labels) + self.share * teacher_loss


class Distiller(Callback):
    """Adds the teachers' logits for every training batch, augmented and mixed as for the student, to its target.

    The teachers get images of full size even with progressive resizing. Teachers that were trained on crops get the
    centre crop, as when their epoch was selected; if the student itself is trained on crops, at most those crops.

    Teachers that see the same augmented view as the student make distillation function matching (Beyer et al. 2022,
    arXiv 2106.05237). Several teachers are combined by soft voting. They are never saved in a checkpoint.

    Args:
        teachers: Checkpoints, runs, or the folder of an ensemble, whose members keep its weights.

    Raises:
        ValueError: No teacher is named.
        FileNotFoundError: A teacher does not exist.
    """

    def __init__(self, teachers: str | Sequence[str]) -> None:
        paths = [teachers] if isinstance(teachers, str) else list(teachers)
        if not paths or paths == ["???"]:
            raise ValueError(
                "callbacks.distiller.teachers names no teacher; give a run, a checkpoint or an ensemble's folder: "
                "'callbacks.distiller.teachers=[outputs/ensembles/NAME]'"
            )
        self._members = [member for path in paths for member in _members_of(Path(path))]
        self.teacher: Ensemble | None = None

    def load(self, student: FERModule, faces: FaceArrays, split: Split, view: float = 1.0) -> Ensemble:
        """Load the teachers of a student as one network, and add their trainings to the student's provenance.

        Args:
            student: The module that is trained.
            faces: Its data.
            split: The split of the data.
            view: Fraction of an image's side that its batches show (`FERDataModule.view`).

        Raises:
            ValueError: A teacher is not a checkpoint of this project, has other classes, or may have been trained or
                selected on images that the student is selected or measured on; or the student's loss has no teacher
                term.
        """
        if not isinstance(student.loss, DistillationLoss):
            raise ValueError("callbacks=distillation needs the loss with a teacher term: add loss=distillation")
        modules = [load_module(path) for path, _ in self._members]
        origins = []
        for (path, _), module in zip(self._members, modules, strict=True):
            if module.classes != student.classes:
                raise ValueError(
                    f"teacher {path} has the classes {', '.join(module.classes)}; "
                    f"this run has {', '.join(student.classes)}"
                )
            origin = Provenance.read(module.hparams["provenance"])
            if origin is None:
                raise ValueError(
                    f"teacher {path} has no provenance, so it may have been trained on images that this run is "
                    "measured on; name a checkpoint that train.py wrote"
                )
            if reason := refusal_to_train(origin, faces, split):
                raise ValueError(f"teacher {path} {reason}; name one trained on the data and protocol of this run")
            origins.append(origin)
        if own := Provenance.read(student.hparams["provenance"]):
            student.hparams["provenance"]["earlier"] = earlier_trainings([own, *origins], faces, split)
        networks = [module.network_for_whole_images() for module in modules]
        for network in networks:
            network.crop = min(1.0, network.crop / view)
        return Ensemble(networks, [weight for _, weight in self._members]).eval().requires_grad_(False)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Load the teachers before a training."""
        if stage == "fit":
            datamodule = trainer.datamodule  # type: ignore[attr-defined]  # set by Trainer.fit
            assert isinstance(pl_module, FERModule)
            assert isinstance(datamodule, FERDataModule)
            with user_errors():
                self.teacher = self.load(pl_module, datamodule.faces, datamodule.split, datamodule.view)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the teachers to the student's device."""
        assert self.teacher is not None
        self.teacher.to(pl_module.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Turn the batch's `target` into the labels' distribution and the teachers' logits (B, 2, C)."""
        assert self.teacher is not None
        with trainer.precision_plugin.forward_context():
            teacher_logits = self.teacher(batch["image"].contiguous(memory_format=torch.channels_last)).float()
        label = batch.get("target")
        if label is None:
            label = F.one_hot(batch["label"], teacher_logits.shape[1]).float()
        batch["target"] = torch.stack([label.float(), teacher_logits], dim=1)


def _members_of(path: Path) -> list[tuple[Path, float]]:
    if not path.exists():
        raise FileNotFoundError(
            f"callbacks.distiller.teachers: there is no {path}; give runs, checkpoints, or a folder that "
            "`python -m fer_lightning ensemble` wrote"
        )
    return ensemble_members(path)
