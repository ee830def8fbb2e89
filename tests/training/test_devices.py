"""A step on a GPU, for which the meta device stands.

It raises in most operations on tensors of two devices, and where a value is read, for which the CPU would wait for the
GPU.
"""

from types import SimpleNamespace

import pytest
import torch
from helpers.runs import TINY
from pytorch_lightning.plugins.precision import Precision

from fer_lightning.data.datamodule import Batch
from fer_lightning.models.ensemble import Ensemble
from fer_lightning.run.data import prepare_data
from fer_lightning.run.job import Job
from fer_lightning.run.resume import StartPoint
from fer_lightning.run.train import build_module
from fer_lightning.training.distillation import Distiller
from fer_lightning.training.module import FERModule

pytestmark = pytest.mark.usefixtures("faces_drawn_once")


def on_meta(composed, *overrides: str) -> tuple[FERModule, Batch]:
    """A module at the start of an epoch and a training batch, both on the meta device."""
    config = composed(*TINY, *overrides)
    datamodule = prepare_data(config)
    datamodule.trainer = SimpleNamespace(training=True, current_epoch=1)
    module = build_module(config, Job.current(), datamodule, StartPoint()).to("meta")
    module._trainer = SimpleNamespace(num_training_batches=99)
    module.on_train_epoch_start()
    return module, datamodule.on_after_batch_transfer({"index": torch.arange(8, device="meta"), "seed": 1}, 0)


@pytest.mark.parametrize(
    "override",
    [
        *(f"loss={name}" for name in ("focal", "label_drawing", "label_smoothing", "weighted_cross_entropy")),
        *("loss=multi_target", "augmentation=none", "augmentation=batched_strong", "augmentation=mixup"),
        *("augmentation=cutmix", "augmentation.policy.flip=alternate", "augmentation.policy.view=0.8"),
        *(
            "eval=tta",
            "eval=ten_crop",
            "model=compact",
            "model=resmasknet model.name=test_resnet model.depths=[2,1,1,1]",
        ),
        "model=emonext model.name=test_convnext model.image_size=32",
    ],
)
def test_a_step_mixes_no_devices_and_waits_for_no_value(composed, override: str) -> None:
    module, batch = on_meta(composed, *override.split())
    loss = module.training_step(batch, 0)
    loss.backward()
    assert loss.device.type == module._sums.device.type == "meta"
    module.eval()
    module.validation_step(batch, 0)
    module.test_step(batch, 0)


@pytest.mark.parametrize("augmentation", ["batched_light", "mixup"])
def test_a_teacher_mixes_no_devices_and_waits_for_no_value(composed, augmentation: str) -> None:
    module, batch = on_meta(composed, "loss=distillation", f"augmentation={augmentation}")
    distiller = Distiller.__new__(Distiller)  # without files of teachers
    distiller.teacher = Ensemble([module.network_for_whole_images()], [1.0]).to("meta")
    distiller.on_train_batch_start(SimpleNamespace(precision_plugin=Precision()), module, batch, 0)
    assert module.training_step(batch, 0).device.type == "meta"
