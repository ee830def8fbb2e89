"""Pictures that grow while a net trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TINY, Compose
from hydra.errors import CompactHydraException
from torch import Tensor

from fer_lightning.models.small_resnet import SmallResNet
from fer_lightning.run import train
from fer_lightning.training.resizing import ProgressiveResizing

COMPACT = ["model=compact", "model.widths=[8,8]", "model.depths=[1,1]", "callbacks=progressive_resizing"]


def test_the_first_epochs_are_small() -> None:
    resizing = ProgressiveResizing(start=0.67, full_from=0.6)
    assert [resizing.size(epoch, 5, 48) for epoch in range(5)] == [32, 32, 32, 48, 48]
    assert [resizing.size(epoch, 4, 224) for epoch in range(4)] == [150, 150, 150, 224]  # full from epoch 2.4 on
    assert ProgressiveResizing(start=0.01, full_from=1).size(0, 1, 24) == 1


def test_training_sees_small_pictures_and_validation_and_test_full_ones(
    composed: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[bool, list[int]] = {True: [], False: []}
    forward = SmallResNet.forward

    def look(network: SmallResNet, images: Tensor) -> Tensor:
        if images.device.type != "meta":  # the rehearsal
            seen[network.training].append(images.shape[-1])
        return forward(network, images)

    monkeypatch.setattr(SmallResNet, "forward", look)
    start = "callbacks.progressive_resizing.start=0.5"
    train(composed(*TINY, *COMPACT, start, "trainer.max_epochs=4", f"paths.output_dir={tmp_path}"))
    steps = 160 // 32
    assert seen[True] == [side for side in (12, 12, 12, 24) for _ in range(steps)]
    assert set(seen[False]) == {24}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["callbacks.progressive_resizing.start=0"], "start is 0; it must be above 0 and at most 1"),
        (["callbacks.progressive_resizing.full_from=0"], "must be above 0 and at most 1"),
        (["callbacks.progressive_resizing.full_from=1.5"], "full_from is 1.5; it must be above 0 and at most 1"),
        (["model=sequential_cnn"], "begins at 16 px, but .* cannot look at"),
    ],
)
def test_what_cannot_be_is_one_sentence(composed: Compose, words: list[str], sentence: str, tmp_path: Path) -> None:
    callback = ["callbacks=progressive_resizing"]
    with pytest.raises(CompactHydraException, match=sentence):
        train(composed(*TINY, *callback, *words, f"paths.output_dir={tmp_path}"))
