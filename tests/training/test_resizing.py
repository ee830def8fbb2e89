"""Progressive resizing, tested by the input sizes of the network's body."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fer_lightning.models.network import build_network
from fer_lightning.training.resizing import ProgressiveResizing

MODEL = {
    "_target_": "fer_lightning.models.small_resnet.SmallResNet", "widths": [4, 8], "depths": [1, 1],
    "image_size": 16, "channels": 1, "mean": 0.5, "std": 0.5,
}  # fmt: skip


class Module(pl.LightningModule):
    """Stores the inputs of its network's body."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = build_network(MODEL, 7)
        self.inputs: list[tuple[bool, Tensor]] = []
        self.network.body.register_forward_pre_hook(self.store)

    def store(self, body: nn.Module, images: tuple[Tensor]) -> None:
        self.inputs.append((body.training, images[0]))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.network(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-2)


IMAGES = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def fit(epochs: int, folder: Path, resume: Path | None = None) -> Module:
    module = Module()
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[ProgressiveResizing([8, 12], 0.5)], accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
        num_sanity_val_steps=0,
    )  # fmt: skip
    loader = DataLoader(TensorDataset(IMAGES, torch.arange(8) % 7), batch_size=4)
    trainer.fit(module, loader, loader, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module


@pytest.mark.parametrize(
    ("sides", "share", "epochs", "expected"),
    [
        ([32], 0.6, 5, [32, 32, 32, 48, 48]),
        ([24, 32, 40], 0.75, 8, [24, 24, 32, 32, 40, 40, 48, 48]),
        ([24, 32], 0.5, 10, [24, 24, 24, 32, 32, *[48] * 5]),  # the first takes the remaining epoch
        ([24, 32], 0.3, 3, [24, 48, 48]),
        ([32], 0.1, 3, [48, 48, 48]),
        ([32], 0.6, 1, [48]),
        ([32], 0.95, 3, [32, 32, 48]),
    ],
)
def test_the_sides_follow_each_other_and_the_full_size_is_last(sides, share, epochs, expected) -> None:
    resizing = ProgressiveResizing(sides, share)
    assert [resizing.side(epoch, epochs, 48) for epoch in range(epochs)] == expected


def test_training_uses_small_images_and_validation_the_full_size(tmp_path: Path) -> None:
    module = fit(4, tmp_path)
    trained = [images.shape[-1] for training, images in module.inputs if training]
    assert trained == [8, 8, 12, 12, 16, 16, 16, 16]  # two batches an epoch
    assert [images.shape[-1] for training, images in module.inputs if not training] == [16] * 8
    assert module.network.image_size == 16
    shrunk = F.interpolate(IMAGES[:4], (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(module.inputs[0][1], (shrunk - 0.5) / 0.5)


def test_a_resumed_run_continues_at_the_size_of_its_epoch(tmp_path: Path) -> None:
    fit(2, tmp_path)
    resumed = fit(8, tmp_path, tmp_path / "last.ckpt")
    assert [images.shape[-1] for training, images in resumed.inputs if training] == [12] * 4 + [16] * 8
