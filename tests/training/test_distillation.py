import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.faces import draw_faces_cached
from helpers.runs import TINY, assert_same_result, edited_checkpoint, stopped_after
from hydra.errors import CompactHydraException

from fer_lightning.data.protocols.standard import kaggle, kfold, official, subset
from fer_lightning.run.train import train
from fer_lightning.training.distillation import DistillationLoss, Distiller
from fer_lightning.training.module import FERModule, load_module

BEST = Path("checkpoints") / "best.ckpt"
CROPS = ("ten_crop", "centre_crop")
LABELS, TEACHER = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.log(4), 0.0]])


def stacked(labels: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return torch.stack([labels, teacher], dim=1)


def test_distillation_by_hand() -> None:
    # At temperature 2 the teacher's odds of 4 are 2 and the student's of 9 are 3: -(2/3 ln 3/4 + 1/3 ln 1/4) times 4;
    # the label's part is -ln 9/10.
    loss = DistillationLoss([1, 1], temperature=2.0, share=0.75)
    value = loss(torch.tensor([[math.log(9), 0.0]]), stacked(LABELS, TEACHER))
    teacher_loss = -4 * (2 / 3 * math.log(3 / 4) + 1 / 3 * math.log(1 / 4))
    assert value.item() == pytest.approx(0.25 * -math.log(0.9) + 0.75 * teacher_loss)


def test_share_0_is_cross_entropy_and_share_1_uses_only_the_teacher() -> None:
    logits, labels, teacher = torch.randn(5, 3), torch.randint(3, (5,)), torch.randn(5, 3)
    target = stacked(F.one_hot(labels, 3).float(), teacher)
    assert torch.allclose(DistillationLoss([1] * 3, 4.0, 0.0)(logits, target), F.cross_entropy(logits, labels))
    teacher_only = DistillationLoss([1] * 3, 1.0, 1.0)
    assert torch.allclose(teacher_only(logits, target), F.cross_entropy(logits, teacher.softmax(1)))


def test_the_gradient_vanishes_where_the_student_equals_the_teacher() -> None:
    teacher = torch.randn(4, 3)
    logits = (teacher + 2.0).requires_grad_()
    DistillationLoss([1] * 3, 3.0, 1.0)(logits, stacked(torch.rand(4, 3), teacher)).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


def test_without_a_teacher_training_is_refused() -> None:
    with pytest.raises(ValueError, match="callbacks=distillation"):
        DistillationLoss([1, 1], 2.0, 0.9)(torch.randn(1, 2), torch.tensor([0]))


@pytest.mark.parametrize(("temperature", "share", "named"), [(0.0, 0.5, "loss.temperature"), (1.0, 1.5, "loss.share")])
def test_invalid_options_are_named(temperature: float, share: float, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        DistillationLoss([1, 1], temperature, share)


def student(run: Path) -> FERModule:
    """A module with the distillation loss, with the data and protocol of a run."""
    module = load_module(run / BEST)
    module.loss = DistillationLoss([1] * 7, 2.0, 0.9)
    return module


FACES = draw_faces_cached(200, 0, 24)
DATA = (FACES, official(FACES))
"""Data and split of `tiny_runs`."""


def distillation_overrides(*teachers: Path) -> list[str]:
    listed = ",".join(map(str, teachers))
    return ["loss=distillation", "callbacks=distillation", f"callbacks.distiller.teachers=[{listed}]"]


@pytest.mark.usefixtures("no_figures", "faces_drawn_once")
def test_the_teacher_predicts_the_students_batches_and_is_not_saved_in_its_checkpoints(
    composed, tmp_path: Path, tiny_runs: list[Path]
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    step = FERModule.training_step
    teacher = load_module(tiny_runs[0] / BEST).eval()

    def spy(self: FERModule, batch: dict, batch_idx: int):
        seen.append((batch["image"].detach().clone(), batch["target"].detach().clone()))
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FERModule, "training_step", spy)
        train(composed(*TINY, *distillation_overrides(tiny_runs[0]), "augmentation=mixup", "model=sequential_cnn"))
    for image, target in seen:
        assert target.shape == (len(image), 2, 7)
        assert torch.allclose(target[:, 0].sum(1), torch.ones(len(image)))
        with torch.no_grad():
            expected = teacher(image).softmax(1)
        assert torch.allclose(target[:, 1].softmax(1), expected, atol=1e-5)
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    saved, reference = (torch.load(path, weights_only=True)["state_dict"] for path in (best, tiny_runs[0] / BEST))
    saved_keys, reference_keys = ({k for k in state if k.startswith("network.")} for state in (saved, reference))
    assert saved_keys == reference_keys
    assert not [key for key in saved if "teacher" in key]
    load_module(best)


@pytest.mark.usefixtures("no_figures", "faces_drawn_once")
def test_a_resumed_student_equals_an_uninterrupted_one(composed, tmp_path: Path, tiny_runs: list[Path]) -> None:
    options = [
        *TINY, *distillation_overrides(tiny_runs[0]),
        "model=sequential_cnn", "augmentation=cutmix", "trainer.max_epochs=2",
    ]  # fmt: skip
    train(composed(*options, f"paths.output_dir={tmp_path / 'whole'}"))
    stopped = tmp_path / "stopped"
    with stopped_after(epochs=1):
        train(composed(*options, f"paths.output_dir={stopped}"))
    train(composed(*options, f"paths.output_dir={stopped}", f"resume={stopped}/checkpoints/last.ckpt"))
    assert_same_result(tmp_path / "whole", stopped)


def test_a_student_fits_the_predictions_of_its_teacher(tiny_runs: list[Path]) -> None:
    teacher = Distiller([str(tiny_runs[0])]).load(student(tiny_runs[1]), *DATA)
    images, linear = torch.rand(64, 1, 24, 24), torch.nn.Linear(24 * 24, 7)
    loss, optimizer = DistillationLoss([1] * 7, 2.0, 1.0), torch.optim.Adam(linear.parameters(), 1e-2)
    with torch.no_grad():
        target = stacked(torch.full((64, 7), 1 / 7), teacher(images))
    for _ in range(200):
        optimizer.zero_grad()
        loss(linear(images.flatten(1)), target).backward()
        optimizer.step()
    assert F.kl_div(linear(images.flatten(1)).log_softmax(1), target[:, 1].softmax(1), reduction="batchmean") < 0.01


def test_an_ensemble_as_teacher_votes_with_its_weights(tiny_runs: list[Path], tmp_path: Path) -> None:
    members = [
        {"checkpoint": str(run / BEST), "weight": weight}
        for run, weight in zip(tiny_runs, (0.75, 0.0, 0.25), strict=True)
    ]
    (tmp_path / "record.json").write_text(json.dumps({"members": members}))
    teacher = Distiller([str(tmp_path)]).load(student(tiny_runs[0]), *DATA)
    images = torch.rand(2, 1, 24, 24)
    modules = [load_module(tiny_runs[i] / BEST).eval() for i in (0, 2)]
    with torch.no_grad():
        expected = 0.75 * modules[0](images).softmax(1) + 0.25 * modules[1](images).softmax(1)
        assert torch.allclose(teacher(images).softmax(1), expected, atol=1e-6)
    assert not teacher.training


@pytest.fixture
def trained_on_crops(tiny_runs: list[Path], tmp_path: Path) -> Path:
    """The first of the tiny runs, as if it had been trained on crops of three quarters of the side."""
    crops = {name: {"_target_": f"fer_lightning.models.tta.{name}", "_partial_": True, "size": 0.75} for name in CROPS}
    views, validation = (crops[name] for name in CROPS)
    with edited_checkpoint(tiny_runs[0] / BEST, tmp_path / "crops.ckpt") as content:
        content["hyper_parameters"]["evaluation"] |= {"views": views, "validation": validation}
    return tmp_path / "crops.ckpt"


def test_teachers_trained_on_crops_predict_one_centre_crop(tiny_runs: list[Path], trained_on_crops: Path) -> None:
    teacher = Distiller([str(trained_on_crops), str(tiny_runs[2])]).load(student(tiny_runs[1]), *DATA)
    images, calls = torch.rand(2, 1, 24, 24), []
    for network in teacher.networks:
        network.body.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        probabilities = teacher(images).softmax(1)
    assert len(calls) == 2
    modules = [load_module(run / BEST).eval() for run in (tiny_runs[0], tiny_runs[2])]
    with torch.no_grad():
        expected = (modules[0](images[..., 3:21, 3:21]).softmax(1) + modules[1](images).softmax(1)) / 2
    assert torch.allclose(probabilities, expected, atol=1e-6)


@pytest.mark.parametrize(("view", "crop"), [(1.0, 0.75), (0.9, 0.75 / 0.9), (0.75, 1.0), (0.5, 1.0)])
def test_a_teachers_crop_is_at_most_the_students_crop(
    tiny_runs: list[Path], trained_on_crops: Path, view: float, crop: float
) -> None:
    teacher = Distiller(str(trained_on_crops)).load(student(tiny_runs[1]), *DATA, view)
    assert teacher.networks[0].crop == pytest.approx(crop)


@pytest.mark.usefixtures("no_figures", "faces_drawn_once")
def test_a_student_of_crops_gets_predictions_for_them(composed, tiny_runs: list[Path], trained_on_crops: Path) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    step = FERModule.training_step

    def spy(self: FERModule, batch: dict, batch_idx: int):
        seen.append((batch["image"].detach().clone(), batch["target"].detach().clone()))
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FERModule, "training_step", spy)
        train(composed(*TINY, *distillation_overrides(trained_on_crops), "augmentation.policy.view=0.75"))
    teacher = load_module(tiny_runs[0] / BEST).eval()
    image, target = seen[0]
    assert image.shape[-1] == 18
    with torch.no_grad():
        assert torch.allclose(target[:, 1].softmax(1), teacher(image).softmax(1), atol=1e-5)


@pytest.mark.usefixtures("no_figures", "faces_drawn_once")
@pytest.mark.parametrize("name", ["distill_mobile", "born_again_mobile", "taught_mobile", "ours_cpu_student"])
def test_distilled_experiments_run_with_a_teacher(composed, tmp_path: Path, tiny_runs: list[Path], name: str) -> None:
    teachers = f"callbacks.distiller.teachers=[{tiny_runs[0]},{tiny_runs[2]}]"
    widths = "model.widths=[8,16,24,32]" if name in ("taught_mobile", "ours_cpu_student") else "model.widths=[8,16,24]"
    train(composed(f"experiment={name}", *TINY, "eval=plain", teachers, widths))
    assert (tmp_path / "run" / "record.json").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["loss=distillation", "callbacks=distillation"], "callbacks.distiller.teachers names no teacher"),
        (["experiment=distill_mobile"], "there is no outputs/ensembles/ours_ensemble"),
    ],
)
def test_a_missing_teacher_is_reported_in_one_sentence(
    composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompactHydraException, match=message) as caught:
        train(composed(*options, *TINY))
    assert "\n" not in str(caught.value)


def test_an_unfit_teacher_is_refused(tiny_runs: list[Path]) -> None:
    distiller = Distiller(str(tiny_runs[0]))
    with pytest.raises(ValueError, match="loss=distillation"):
        distiller.load(load_module(tiny_runs[1] / BEST), *DATA)
    other = student(tiny_runs[1])
    other.classes = ["yes", "no"]
    with pytest.raises(ValueError, match="this run has yes, no"):
        distiller.load(other, *DATA)


def test_a_student_inherits_the_trainings_of_its_teachers(tiny_runs: list[Path], tmp_path: Path) -> None:
    content = torch.load(tiny_runs[0] / BEST, weights_only=True)
    content["hyper_parameters"]["provenance"] |= {"data": "elsewhere", "data_fingerprint": "f"}
    torch.save(content, tmp_path / "teacher.ckpt")
    pupil = student(tiny_runs[1])
    Distiller([str(tmp_path / "teacher.ckpt"), str(tiny_runs[0])]).load(pupil, *DATA)
    [earlier] = pupil.hparams["provenance"]["earlier"]
    assert (earlier["data"], earlier["protocol"]) == ("elsewhere", "official")


def test_a_teacher_trained_on_its_students_test_images_is_refused(tiny_runs: list[Path], tmp_path: Path) -> None:
    pupil, distiller = student(tiny_runs[1]), Distiller([str(tiny_runs[0])])
    with pytest.raises(
        ValueError, match=r"teacher .*best\.ckpt was trained .*, which trains on 13 of the 13 images of val"
    ):
        distiller.load(pupil, FACES, kaggle(FACES))
    distiller.load(pupil, FACES, subset(FACES))
    resized = replace(FACES, fingerprint="0" * 64)
    distiller.load(pupil, resized, official(resized))
    with pytest.raises(
        ValueError,
        match=r"trained on another version of synthetic .* may have been trained or selected on images of val",
    ):
        distiller.load(pupil, resized, kfold(resized))
    with edited_checkpoint(tiny_runs[0] / BEST, tmp_path / "unknown.ckpt") as content:
        content["hyper_parameters"]["provenance"] = None
    with pytest.raises(ValueError, match=r"unknown\.ckpt has no provenance, so it may have been trained on"):
        Distiller([str(tmp_path / "unknown.ckpt")]).load(pupil, *DATA)
