"""Shared fixtures and helpers: composition of conf/, small synthetic runs, the real data if available."""

from __future__ import annotations

import functools
import json
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import settings
from omegaconf import DictConfig, open_dict

import fer_lightning  # noqa: F401  # before torchvision
from fer_lightning.data.sources import synthetic
from fer_lightning.data.sources.locate import find_fer2013
from fer_lightning.export import graphs
from fer_lightning.labels import EMOTIONS
from fer_lightning.models.network import FERNetwork, build_network
from fer_lightning.run.resolvers import register_resolvers

ROOT = Path(__file__).parents[1]

settings.register_profile("ci", derandomize=True)  # CI must be reproducible
if os.environ.get("CI"):
    settings.load_profile("ci")
REAL_DATA = Path(os.environ.get("FER_TEST_DATA", ROOT.parent / "shared" / "data"))

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
"""Overrides with which any run takes about a second."""

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

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
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


def start_process(function: Callable[..., object], *arguments: object) -> multiprocessing.Process:
    """Start a function in a new process, without the seconds of importing the package.

    A fork of this process would hang in PyTorch: the threads of its pool are not copied.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fer_lightning.run.train"])
    process = context.Process(target=function, args=arguments, daemon=True)
    with pytest.MonkeyPatch.context() as patch:  # else it would run the main script, which Streamlit's tests replace
        patch.setitem(sys.modules, "__main__", ModuleType("__main__"))
        process.start()
    return process


draw_faces_cached = functools.cache(synthetic.draw_faces)
"""For tests that read the same synthetic faces many times."""


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three finished runs on the same synthetic faces, with their overrides in the checkpoints."""
    from fer_lightning.reporting import figures
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
        overrides = tuple(o for o in [*TINY, *choices] if not o.startswith("tracking"))
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), pytest.MonkeyPatch.context() as patch:
            patch.setattr(synthetic, "draw_faces", draw_faces_cached)
            patch.setattr(figures, "save", lambda figure, path: path)  # figures take longer than the training
            patch.setattr(Job, "current", classmethod(lambda cls, o=overrides, n=name: Job({"model": n}, o, None)))
            train(compose("config", overrides=[*overrides, "tracking=none", f"paths.output_dir={folder / name}"]))
        runs.append(folder / name)
    return runs


@contextmanager
def tracking_server(folder: Path, backend: str, port: int | None = None) -> Iterator[tuple[str, Callable[[], None]]]:
    """Run an `mlflow server` over a database, by default on a free port; yield its URL and a function to kill it."""
    port = port or free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", backend, "--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True)

    def stop() -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 300
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"mlflow server did not start: {(folder / 'log').read_text()[-2000:]}")
                time.sleep(0.2)
        yield url, stop
    finally:
        stop()


def free_port() -> int:
    """A free TCP port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


def described(folder: Path, **changes: object) -> Path:
    """Write the other files of a bundle beside its `model.onnx`."""
    graph = {"file": "model.onnx", "sha256": sha256((folder / "model.onnx").read_bytes()).hexdigest()}
    description = {
        "format": 1,
        "name": "small",
        "classes": list(EMOTIONS),
        "input": {"size": 48, "channels": 1},
        "graphs": {"float": graph},
        "scores": {"test": {"accuracy": 0.5}},
        "training": {"data": "fer2013", "data_fingerprint": "0", "protocol": "official", "command": "python train.py"},
        **changes,
    }
    (folder / "bundle.json").write_text(json.dumps(description))
    (folder / "MODEL_CARD.md").write_text("# small\n")
    return folder


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
    return described(folder)


@pytest.fixture
def describe() -> Callable[..., Path]:
    """`described`, for tests that change a bundle."""
    return described
