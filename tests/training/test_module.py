"""FERModule's steps: views of a batch, training scores, skipped batches, seeds."""

import math
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from fer_lightning.config import CONF, to_container
from fer_lightning.models.tta import centre_crop
from fer_lightning.training.errors import NonFiniteLossError
from fer_lightning.training.module import SKIPPED_IN_A_ROW, FERModule
from fer_lightning.training.optim import cosine


def small_module(evaluation: dict | None = None) -> FERModule:
    options = {
        g: to_container(OmegaConf.load(CONF / g / f"{o}.yaml"))
        for g, o in (("model", "custom_cnn"), ("optimizer", "adam"))
    }
    return FERModule(
        **options,
        loss={"_target_": "fer_lightning.training.losses.CrossEntropyLoss"},
        scheduler={"_target_": "fer_lightning.training.optim.constant"},
        evaluation=evaluation or {"views": view("identity"), "validation": None, "average": "probabilities"},
        classes=list("abcdefg"),
        class_counts=[1] * 7,
    )


def input_shapes(part: str, evaluation: dict) -> list[tuple[int, ...]]:
    """Shapes of the network's inputs in one step of a part."""
    module = small_module(evaluation).eval()
    shapes: list[tuple[int, ...]] = []
    module.network.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    batch = {"image": torch.rand(2, 1, 48, 48), "label": torch.tensor([0, 1]), "index": torch.tensor([0, 1]), "seed": 0}
    with torch.no_grad():
        getattr(module, f"{part}_step")(batch, 0)
    return shapes


def view(name: str, **options: float) -> dict:
    return {"_target_": f"fer_lightning.models.tta.{name}", "_partial_": True, **options}


def test_validation_uses_one_view_and_test_its_views() -> None:
    evaluation = {"views": view("flip"), "validation": None, "average": "probabilities"}
    assert input_shapes("validation", evaluation) == [(2, 1, 48, 48)]
    assert input_shapes("test", evaluation) == [(2, 1, 48, 48)] * 2


def test_validation_has_views_of_its_own() -> None:
    evaluation = {
        "views": view("ten_crop", size=0.833),
        "validation": view("centre_crop", size=0.833),
        "average": "logits",
    }
    assert input_shapes("validation", evaluation) == [(2, 1, 40, 40)]
    assert input_shapes("test", evaluation) == [(2, 1, 40, 40)] * 10


@pytest.mark.parametrize(
    ("evaluation", "crop"),
    [
        ({"views": view("ten_crop", size=0.833), "validation": view("centre_crop", size=0.75)}, 0.75),
        ({"views": view("ten_crop", size=0.833), "validation": None}, 0.833),
        ({"views": view("shifts", shift=0.04), "validation": None}, 1.0),
    ],
)
def test_outside_of_the_module_the_network_crops_as_its_views(evaluation: dict, crop: float) -> None:
    module = small_module({**evaluation, "average": "logits"}).eval()
    network, images = module.network_for_whole_images(), torch.rand(2, 1, 48, 48)
    [centre] = centre_crop(images, crop)
    with torch.no_grad():
        assert torch.equal(network(images), module(centre))
        assert torch.equal(module.network(images), module(images))  # whose own views crop already
    assert network.body is module.network.body


def test_an_epochs_training_scores_are_means_over_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 3, 3 and 2 images, of which 2, 0 and 1 are predicted correctly."""
    correct = [[True, True, False], [False] * 3, [True, False]]
    module = small_module()
    module._trainer = SimpleNamespace(num_training_batches=9, precision="32-true")
    module.on_train_epoch_start()
    losses = []
    for number, row in enumerate(correct):
        labels = torch.tensor([number] * len(row))
        predicted = torch.where(torch.tensor(row), labels, labels + 1)
        logits = 2.0 * torch.nn.functional.one_hot(predicted, 7).float()
        monkeypatch.setattr(module, "_logits", lambda batch, logits=logits: logits.clone().requires_grad_())
        batch = {"image": torch.rand(len(row), 1, 48, 48), "label": labels, "index": labels, "seed": number}
        losses += [module.training_step(batch, number).item()] * len(row)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.25}])
    reduced = SimpleNamespace(reduce=lambda sums, reduce_op: sums)
    vars(module._trainer).update(strategy=reduced, optimizers=[optimizer], current_epoch=0, loggers=[])
    vars(module._trainer).update(lr_scheduler_configs=[])
    monkeypatch.setattr(module, "log_dict", lambda row, **options: None)
    module.on_train_epoch_end()
    [row] = module.history
    assert row == {"epoch": 1, "train/accuracy": 3 / 8, "train/loss": pytest.approx(sum(losses) / 8), "lr": 0.25}
    assert len(set(losses)) > 1


def test_only_consecutive_skipped_batches_stop_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    module = small_module()
    module._skips = True
    module._trainer = SimpleNamespace(num_training_batches=99, precision="32-true", global_step=0, current_epoch=0)
    module.on_train_epoch_start()
    logits = torch.zeros(2, 7, requires_grad=True)
    batch = {"image": torch.rand(2, 1, 48, 48), "label": torch.tensor([0, 1]), "index": torch.tensor([0, 1]), "seed": 0}

    def step(number: int, factor: float) -> torch.Tensor | None:
        monkeypatch.setattr(module, "_logits", lambda batch: logits * factor)
        return module.training_step(batch, number)

    for number in range(3 * SKIPPED_IN_A_ROW):
        finite = number % 3 == 0
        assert (step(number, 1.0 if finite else math.nan) is not None) == finite
    assert module._skipped == 2 * SKIPPED_IN_A_ROW
    assert step(30, 1.0) is not None
    assert [step(31 + number, math.nan) for number in range(SKIPPED_IN_A_ROW - 1)] == [None] * (SKIPPED_IN_A_ROW - 1)
    with pytest.raises(NonFiniteLossError, match=f"{SKIPPED_IN_A_ROW} batches in a row were skipped"):
        step(40, math.nan)


def test_the_first_step_of_a_run_resumed_for_more_epochs_has_the_rate_of_the_longer_schedule() -> None:
    options = {"steps_per_epoch": 5, "warmup_epochs": 0, "final_fraction": 0.0}
    module = small_module()
    short, long = (torch.optim.SGD(module.parameters(), lr=1.0) for _ in range(2))
    ended = cosine(short, epochs=2, **options)["scheduler"]
    for _ in range(10):
        short.step()
        ended.step()
    resumed = cosine(long, epochs=4, **options)["scheduler"]
    long.load_state_dict(short.state_dict())
    resumed.load_state_dict(ended.state_dict())
    schedule = SimpleNamespace(scheduler=resumed)
    module._trainer = SimpleNamespace(
        estimated_stepping_batches=20, max_epochs=4, current_epoch=2, lr_scheduler_configs=[schedule]
    )
    module.on_train_start()
    assert long.param_groups[0]["lr"] == pytest.approx(0.5)  # half of the cosine; at the end of the shorter one it is 0
    assert resumed.last_epoch == 10


def test_dropout_depends_on_the_seed_of_the_batch() -> None:
    module = small_module().train()
    module._trainer = SimpleNamespace(num_training_batches=9)
    batch = {"image": torch.rand(4, 1, 48, 48), "label": torch.tensor([0, 1, 2, 3])}
    losses: dict[int, list[float]] = {}
    for number, seed in enumerate((5, 6, 5)):
        torch.rand(number)  # earlier draws have no influence
        losses.setdefault(seed, []).append(module.training_step({**batch, "seed": seed}, number).item())
    assert losses[5][0] == losses[5][1]
    assert losses[5][0] != losses[6][0]


def test_dropout_draws_from_another_stream_than_the_augmentation_of_the_batch(monkeypatch) -> None:
    module, drawn = small_module().train(), []
    module._trainer = SimpleNamespace(num_training_batches=9)
    logits = module._logits
    monkeypatch.setattr(module, "_logits", lambda *arguments: drawn.append(torch.rand(8)) or logits(*arguments))
    module.training_step({"image": torch.rand(4, 1, 48, 48), "label": torch.tensor([0, 1, 2, 3]), "seed": 5}, 0)
    assert not torch.equal(drawn[0], torch.rand(8, generator=torch.Generator().manual_seed(5)))
