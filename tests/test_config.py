import pytest
import torch
from omegaconf import OmegaConf

from fer_lightning.cli.command_line import overrides_last
from fer_lightning.config import build, flatten, to_container


def test_build_calls_the_target_with_its_keys() -> None:
    optimizer = build({"_target_": "torch.optim.SGD", "lr": 0.5}, [torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_build_returns_a_partial() -> None:
    views = build({"_target_": "fer_lightning.models.tta.shifts", "_partial_": True, "shift": 0.5})
    assert len(views(torch.zeros(1, 1, 4, 4))) == 10


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "fer_lightning.config.os.getcwd",
        "fer_lightning.config.inspect.signature",
        "fer_lightning.nothing.Here",
        "fer_lightning_evil.Thing",
        "torch.load",
        "None",
    ],
)
def test_build_refuses_targets_outside_of_the_allowed_packages(target: str) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        build({"_target_": target})


def test_build_names_unknown_keys() -> None:
    with pytest.raises(ValueError, match=r"MixUp.*alpha"):
        build({"_target_": "fer_lightning.data.augmentation.mixing.MixUp", "alpa": 0.2})


def test_flatten_and_plain() -> None:
    config = OmegaConf.create({"a": {"b": 1, "_target_": "x"}, "c": [1, 2], "d": "${a.b}"})
    assert flatten(to_container(config)) == {"a.b": 1, "c": [1, 2], "d": 1}


def test_flags_may_be_anywhere() -> None:
    arguments = ["model=vgg", "-m", "optimizer.lr=1e-4,3e-4", "--cfg", "job", "+a=1", "~debug", "--config-dir=x"]
    ordered = ["-m", "--cfg", "job", "--config-dir=x", "model=vgg", "optimizer.lr=1e-4,3e-4", "+a=1", "~debug"]
    assert overrides_last(arguments) == ordered
