"""Fixtures: composition of conf/, small synthetic runs, a bundle, a database, the real data if available."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers.bundles import describe
from helpers.faces import draw_faces_cached
from helpers.fer2013 import REAL_DATA
from helpers.processes import free_port
from helpers.runs import TINY_TRACKED
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import settings
from omegaconf import DictConfig, open_dict

import fer_lightning  # noqa: F401  # before torchvision
from fer_lightning.config import CONF
from fer_lightning.data.sources import synthetic
from fer_lightning.data.sources.locate import find_fer2013
from fer_lightning.export import graphs
from fer_lightning.labels import EMOTIONS
from fer_lightning.models.network import FERNetwork, build_network
from fer_lightning.run.resolvers import register_resolvers

settings.register_profile("ci", derandomize=True)  # CI must be reproducible
if os.environ.get("CI"):
    settings.load_profile("ci")

Compose = Callable[..., DictConfig]


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_reaches_children() -> None:
    """Shells start background jobs with SIGINT ignored, which child processes would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _no_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With FER2013 in data/, `data=auto` would be another data set than on other machines."""
    if find_fer2013("data"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FER_DATA_DIR", str(tmp_path_factory.mktemp("data")))
            yield
    else:
        yield


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Compose]:
    """Compose conf/ with overrides as `train.py` does, with all output below `tmp_path`."""
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

    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield compose_with
    HydraConfig.instance().cfg = None


@pytest.fixture(autouse=True)
def _no_tracking_server() -> None:
    """Remove the tracking URI of an earlier test, which `mlflow.set_tracking_uri` leaves in the environment."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    """Restore the level of the root logger, which a process of rank 1 or higher raises."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real FER2013."""
    if not (REAL_DATA / "fer2013.csv.xz").exists():
        pytest.skip(f"real FER2013 is not at {REAL_DATA} (FER_TEST_DATA names another folder)")
    return REAL_DATA


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report without figures, which take longer than a small training."""
    monkeypatch.setattr("fer_lightning.reporting.figures.save", lambda figure, path: path)


@pytest.fixture
def faces_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw each synthetic data set once for all tests of a process."""
    monkeypatch.setattr(synthetic, "draw_faces", draw_faces_cached)


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three finished runs on the same synthetic faces, with their overrides in the checkpoints."""
    from fer_lightning.run.job import Job
    from fer_lightning.run.train import train

    register_resolvers()
    folder = tmp_path_factory.mktemp("runs")
    runs = []
    for name, choices in {
        "small": ["model=sequential_cnn", "trainer.max_epochs=2"],
        "other_seed": ["model=sequential_cnn", "seed=1"],
        "flipped": ["model=custom_cnn", "eval=flip"],
    }.items():
        overrides = (*TINY_TRACKED, *choices)
        with initialize_config_dir(str(CONF), version_base="1.3"), pytest.MonkeyPatch.context() as patch:
            patch.setattr(synthetic, "draw_faces", draw_faces_cached)
            patch.setattr("fer_lightning.reporting.figures.save", lambda figure, path: path)
            patch.setattr(Job, "current", classmethod(lambda cls, o=overrides, n=name: Job({"model": n}, o, None)))
            train(compose("config", overrides=[*overrides, "tracking=none", f"paths.output_dir={folder / name}"]))
        runs.append(folder / name)
    return runs


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a local MLflow store for tests with their own runs or experiments: creating one takes seconds."""
    return tmp_path_factory.mktemp("mlruns")


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The URL of a database on a temporary PostgreSQL server."""
    pytest.importorskip("psycopg", reason="needs PostgreSQL's driver: pip install 'psycopg[binary]'")
    found = shutil.which("initdb") or max(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None)
    if found is None:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    programs = Path(found).parent
    folder = Path(tempfile.mkdtemp(prefix="pg.", dir="/tmp"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(folder, "postgres", "postgres")
    port = free_port()

    def call(program: str, *arguments: str) -> None:
        command = [*as_user, str(programs / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    try:
        call("initdb", "--auth=trust", "--username=postgres", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        call("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def small_network() -> FERNetwork:
    """A network with random weights whose predictions differ between images."""
    torch.manual_seed(0)
    model = {"_target_": "fer_lightning.models.small_resnet.SmallResNet", "image_size": 48, "channels": 1}
    widths = {"widths": [8, 16], "depths": [1, 1], "stem_stride": 2, "mean": 0.5, "std": 0.25}
    network = build_network(model | widths, len(EMOTIONS)).eval()
    network.body.head[-1].weight.data.mul_(40)
    return network


@pytest.fixture(scope="session")
def small_bundle(small_network: FERNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that network's bundle; tests must not change it."""
    folder = tmp_path_factory.mktemp("bundle")
    graphs.write_onnx(small_network, folder / "model.onnx", channels=1, size=48)
    return describe(folder)
