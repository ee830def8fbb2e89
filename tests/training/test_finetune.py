"""Freezing and unfreezing, tested by the weights that training changes."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fer_lightning.config import CONF
from fer_lightning.models.network import build_network
from fer_lightning.training.finetune import GradualUnfreezing

MODEL = {
    "_target_": "fer_lightning.models.custom_cnn.CustomCNN", "width": 4, "hidden": 8, "dropout": 0.0,
    "image_size": 8, "channels": 1, "mean": 0.5, "std": 0.5,
}  # fmt: skip
TIMM = {
    "_target_": "fer_lightning.models.timm_body.TimmBody", "name": "test_vit",
    "image_size": 32, "channels": 1, "mean": 0.5, "std": 0.5,
}  # fmt: skip


class Module(pl.LightningModule):
    """A minimal module with one optimizer over all parameters; it stores the state after each epoch."""

    def __init__(self, model: dict[str, Any] = MODEL) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = build_network(model, 7)
        self.states = [self.snapshot()]

    def snapshot(self) -> dict[str, Tensor]:
        return {k: v.clone() for k, v in self.network.state_dict().items()}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        assert not any(m.training for m in self.network.modules())

    def on_train_epoch_end(self) -> None:
        self.states.append(self.snapshot())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1)


def faces(size: int = 8) -> DataLoader:
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.rand(16, 1, size, size), torch.arange(16) % 7), batch_size=8)


def fit(
    callback: GradualUnfreezing, epochs: int, folder: Path, model: dict = MODEL, resume: Path | None = None
) -> Module:
    module = Module(model)
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[callback], accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
    )  # fmt: skip
    loader = faces(model["image_size"])
    trainer.fit(module, loader, loader, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return module


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """`head` or the block of each weight or BatchNorm statistic that changed."""
    keys = {k for k in before if not torch.equal(before[k], after[k])}
    return {".".join(k.split(".")[1:3]) if "blocks" in k else k.split(".")[1] for k in keys}


def test_schedule() -> None:
    gradual = GradualUnfreezing(frozen_epochs=2, every_epochs=2, keep_frozen=1)
    assert [gradual.frozen_stages(epoch, 4) for epoch in range(9)] == [4, 4, 3, 3, 2, 2, 1, 1, 1]
    at_once = GradualUnfreezing(frozen_epochs=0, every_epochs=1)
    assert [at_once.frozen_stages(epoch, 3) for epoch in range(4)] == [2, 1, 0, 0]
    assert {GradualUnfreezing().frozen_stages(epoch, 3) for epoch in (0, 1, 1000)} == {3}


def test_frozen_stages_and_their_statistics_do_not_change(tmp_path: Path) -> None:
    states = fit(GradualUnfreezing(), 2, tmp_path).states
    assert changed(states[0], states[1]) == {"head"}
    assert changed(states[1], states[2]) == {"head"}
    assert not torch.equal(states[0]["body.head.1.running_mean"], states[2]["body.head.1.running_mean"])


def test_stages_are_unfrozen_from_the_output_side(tmp_path: Path) -> None:
    states = fit(GradualUnfreezing(frozen_epochs=1, keep_frozen=1), 5, tmp_path).states
    changes = [changed(before, after) for before, after in pairwise(states)]
    assert changes == [{"head"}, {"head", "blocks.2"}, *[{"head", "blocks.1", "blocks.2"}] * 3]
    for name in ("weight", "running_mean", "running_var"):
        assert not torch.equal(states[1][f"body.blocks.2.1.{name}"], states[2][f"body.blocks.2.1.{name}"])


def test_in_the_end_every_stage_is_trained(tmp_path: Path) -> None:
    states = fit(GradualUnfreezing(frozen_epochs=0, every_epochs=1), 3, tmp_path).states
    assert changed(states[2], states[3]) == {"head", "blocks.0", "blocks.1", "blocks.2"}


def test_tokens_of_a_transformer_are_frozen_too(tmp_path: Path) -> None:
    states = fit(GradualUnfreezing(), 1, tmp_path, TIMM).states
    assert changed(*states) == {"head"}
    assert "body.backbone.cls_token" in states[0] or "body.backbone.pos_embed" in states[0]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    def callback() -> GradualUnfreezing:
        return GradualUnfreezing(frozen_epochs=1)

    whole = fit(callback(), 4, tmp_path / "whole").states
    fit(callback(), 2, tmp_path)
    resumed = fit(callback(), 4, tmp_path, resume=tmp_path / "2.ckpt").states
    assert len(resumed) == 3
    assert all(torch.equal(value, resumed[-1][key]) for key, value in whole[-1].items())


def test_freezing_removes_gradients_of_an_earlier_step() -> None:
    module = Module()
    for parameter in module.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    GradualUnfreezing().on_train_epoch_start(trainer, module)
    body = module.network.body
    assert all(p.grad is None and not p.requires_grad for p in body.blocks.parameters())
    assert all(p.grad is not None and p.requires_grad for p in body.head.parameters())
    assert not any(m.training for m in body.blocks.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(m.training for m in body.head.modules())


@pytest.mark.parametrize("path", sorted((CONF / "finetune").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_option_builds(path: Path) -> None:
    callback = instantiate(OmegaConf.load(path).callback)
    assert (callback is None) == (path.stem == "full")
    if path.stem == "frozen":
        assert callback.frozen_stages(10**6, 5) == 5
    if path.stem == "gradual":
        assert [callback.frozen_stages(epoch, 3) for epoch in range(6)] == [3, 3, 2, 1, 0, 0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"frozen_epochs": -1}, "frozen_epochs"),
        ({"every_epochs": 0}, "every_epochs"),
        ({"keep_frozen": -1}, "keep_frozen"),
    ],
)
def test_invalid_numbers_are_named(options: dict, named: str) -> None:
    with pytest.raises(ValueError, match=rf"finetune\.callback\.{named} is"):
        GradualUnfreezing(**options)


def test_layers_between_the_stages_are_in_eval_mode_while_all_stages_are_frozen() -> None:
    body: Any = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Linear(2, 2))
    body.head, body.stages = body[2], lambda: [body[0]]
    module: Any = SimpleNamespace(network=SimpleNamespace(body=body))
    for epoch, training in ((0, False), (1, True), (2, True)):
        trainer: Any = SimpleNamespace(current_epoch=epoch)
        GradualUnfreezing(frozen_epochs=1).on_train_epoch_start(trainer, module)
        assert [body[0].training, body[1].training, body.head.training] == [training, training, True]


def test_more_frozen_stages_than_the_model_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_frozen is 4; the model has 3 stages"):
        fit(GradualUnfreezing(keep_frozen=4), 1, tmp_path)


def test_unfreezing_on_several_devices_is_refused() -> None:
    class TwoDevices:
        world_size = 2

    trainer: Any = TwoDevices()
    with pytest.raises(ValueError, match=r"one device: set trainer\.devices=1"):
        GradualUnfreezing(frozen_epochs=1).setup(trainer, Module(), "fit")
    module = Module()
    GradualUnfreezing().setup(trainer, module, "fit")
    assert not any(p.requires_grad for p in module.network.body.blocks.parameters()), "before the strategy wraps it"
