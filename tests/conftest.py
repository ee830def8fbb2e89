"""What several rooms of tests share: composing the real conf/, tiny synthetic data, the real data where it is there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

import fer_lightning  # noqa: F401  # before torchvision
from fer_lightning.config import register_resolvers

ROOT = Path(__file__).parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"

TINY = [
    "data=synthetic",
    "data.count=200",
    "data.image_size=24",
    "model.image_size=24",
    "trainer.max_epochs=1",
    "trainer.batch_size=32",
    "trainer.precision=32-true",
    "tracking=none",
    "eval.bootstrap=20",
]
"""Overrides that make any run a matter of a second."""

Compose = Callable[..., DictConfig]


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Compose]:
    """Composes conf/ with overrides as `train.py` would, with all output below `tmp_path`."""
    register_resolvers()

    def compose_with(*overrides: str) -> DictConfig:
        config = compose(
            "config",
            overrides=[
                f"paths.output_dir={tmp_path / 'run'}",
                f"paths.mlruns_dir={tmp_path / 'mlruns'}",
                f"paths.data_dir={tmp_path / 'data'}",
                *overrides,
            ],
            return_hydra_config=True,
        )
        with open_dict(config):
            config.hydra.runtime.output_dir = str(tmp_path / "run")
            config.hydra.job.num = 0
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        return config

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield compose_with
    HydraConfig.instance().cfg = None


@pytest.fixture(autouse=True)
def _quiet_lightning() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real FER2013."""
    if not (REAL_DATA / "fer2013.csv.xz").exists():
        pytest.skip(f"real FER2013 is not at {REAL_DATA}")
    return REAL_DATA
