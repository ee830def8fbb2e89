import math

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from fer_lightning.config import ROOT
from fer_lightning.training import optim


def small_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


def rates(scheduler: object, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(scheduler.optimizer.param_groups[0]["lr"])  # type: ignore[attr-defined]
        scheduler.optimizer.step()  # type: ignore[attr-defined]
        scheduler.step()  # type: ignore[attr-defined]
    return found


def sgd(lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def test_no_weight_decay_on_norms_and_biases() -> None:
    network = small_network()
    config = {"_target_": "torch.optim.AdamW", "lr": 0.1, "weight_decay": 0.5}
    optimizer = optim.build_optimizer(config, network)
    decayed, others = optimizer.param_groups
    assert {id(p) for p in decayed["params"]} == {id(network[0].weight), id(network[3].weight)}
    assert decayed["weight_decay"] == 0.5
    assert others["weight_decay"] == 0.0
    assert len(others["params"]) == 4


@pytest.mark.parametrize("option", ["adam", "adamw", "sgd"])
def test_fused_steps_equal_unfused_ones(option: str) -> None:
    config = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "optimizer" / f"{option}.yaml"))
    assert isinstance(config, dict)
    assert config["fused"]
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        network = small_network()
        optimizer = optim.build_optimizer({**config, "fused": fused, "weight_decay": 0.1}, network)
        for step in range(3):
            for position, parameter in enumerate(network.parameters()):
                parameter.grad = torch.full_like(parameter, 0.3 * (step - 1) + 0.1 * position)
            optimizer.step()
        results.append(torch.cat([parameter.detach().flatten() for parameter in network.parameters()]))
    assert torch.allclose(*results, atol=1e-6)


def test_cosine_by_hand() -> None:
    schedule = optim.cosine(sgd(), epochs=3, steps_per_epoch=4, warmup_epochs=1, final_fraction=0.1)
    found = rates(schedule["scheduler"], 13)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[8] == pytest.approx(0.1 + 0.9 * 0.5)  # half of the fall
    assert found[12] == pytest.approx(0.1)
    assert found[5] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 8)))


def test_step_by_hand() -> None:
    schedule = optim.step(sgd(), epochs=4, steps_per_epoch=2, every_epochs=2, factor=0.5)
    assert rates(schedule["scheduler"], 8) == [1.0] * 4 + [0.5] * 4


def test_onecycle_rises_to_lr_and_falls() -> None:
    schedule = optim.onecycle(
        sgd(), epochs=2, steps_per_epoch=10, warmup_fraction=0.25, initial_divisor=10, final_divisor=100
    )
    found = rates(schedule["scheduler"], 20)
    assert found[0] == pytest.approx(0.1)
    assert max(found) == pytest.approx(1.0)
    assert found[-1] == pytest.approx(0.001)


def test_onecycle_equals_torch_and_can_be_resumed_for_more_epochs() -> None:
    options = {"warmup_fraction": 0.3, "initial_divisor": 25.0, "final_divisor": 1e4}
    short, long = (optim.onecycle(sgd(), epochs=n, steps_per_epoch=10, **options)["scheduler"] for n in (3, 6))
    reference, longer = (
        torch.optim.lr_scheduler.OneCycleLR(sgd(), max_lr=1.0, total_steps=n, cycle_momentum=False) for n in (30, 60)
    )
    assert rates(short, 29) == pytest.approx(rates(reference, 29))
    long.load_state_dict(short.state_dict())
    assert rates(long, 30)[1:] == pytest.approx(rates(longer, 59)[30:])


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_onecycle_of_few_steps(steps: int) -> None:
    schedule = optim.onecycle(
        sgd(), epochs=1, steps_per_epoch=steps, warmup_fraction=0.25, initial_divisor=10, final_divisor=100
    )
    assert all(0 < rate <= 1 for rate in rates(schedule["scheduler"], steps))


def test_plateau_waits_and_halves() -> None:
    schedule = optim.plateau(
        sgd(),
        epochs=9,
        steps_per_epoch=1,
        monitor="val/accuracy",
        mode="max",
        factor=0.5,
        patience=1,
        min_lr=0.3,
    )
    found = []
    for value in (0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4):
        schedule["scheduler"].step(value)
        found.append(schedule["scheduler"].optimizer.param_groups[0]["lr"])
    assert found == [1.0, 1.0, 0.5, 0.5, 0.3, 0.3, 0.3]


def test_constant() -> None:
    assert rates(optim.constant(sgd(0.3), epochs=2, steps_per_epoch=2)["scheduler"], 4) == [0.3] * 4


def test_step_waits_for_its_first_epoch() -> None:
    schedule = optim.step(sgd(), epochs=9, steps_per_epoch=1, every_epochs=2, factor=0.5, after_epochs=3)
    assert rates(schedule["scheduler"], 9) == [1.0] * 5 + [0.5] * 2 + [0.25] * 2
