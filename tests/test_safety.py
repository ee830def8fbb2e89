"""Malicious files: each is refused with a message, and writes nothing."""

import contextlib
import gzip
import importlib
import inspect
import io
import json
import lzma
import os
import pickle
import pkgutil
import resource
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.images import encoded, noise, png_of_size
from helpers.valid_files import HYPERPARAMETERS, MODEL, description, good_cache, good_checkpoint, graph, network, npy

from fer_lightning.app.choices import Choice
from fer_lightning.config import ROOT, TARGET_PREFIXES, build
from fer_lightning.data.arrays import DataError
from fer_lightning.data.sources.cache import load
from fer_lightning.data.sources.readers import read_faces
from fer_lightning.inference.bundle import Bundle, BundleError
from fer_lightning.inference.images import ImageError, read_image
from fer_lightning.inference.predict import FERPredictor
from fer_lightning.models.weights import load_weights
from fer_lightning.run.resume import StartPoint
from fer_lightning.studies.trained import compose_for
from fer_lightning.training.module import FERModule, load_module


class Evil:
    """Writes a file `stranger` when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch stranger",)


@pytest.fixture(autouse=True)
def _nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    assert list(home.rglob("*")) == []


def checkpoint(folder: Path, **changed: Any) -> Path:
    """A valid checkpoint with changed hyperparameters."""
    path = folder / "best.ckpt"
    torch.save({**good_checkpoint(), "hyper_parameters": {**HYPERPARAMETERS, **changed}}, path)
    return path


# ------------------------------------------------------------------ pickles


def evil_files(folder: Path) -> Iterator[Path]:
    torch.save({**good_checkpoint(), "more": Evil()}, folder / "new.ckpt")
    torch.save({**good_checkpoint(), "more": Evil()}, folder / "old.ckpt", _use_new_zipfile_serialization=False)
    (folder / "bare.ckpt").write_bytes(pickle.dumps(Evil()))
    yield from sorted(folder.glob("*.ckpt"))


@pytest.mark.parametrize("read", [load_module, StartPoint.read, lambda path: load_weights(network(), path)])
def test_a_checkpoint_cannot_run_code(tmp_path: Path, read: Callable[[Path], object]) -> None:
    for path in evil_files(tmp_path):
        with pytest.raises(ValueError, match="holds more than tensors and plain data: refused"):
            read(path)


def test_an_mlflow_artifact_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app opens the checkpoint of a run in an MLflow store; nothing of the store is unpickled."""
    [_, path, *_] = evil_files(tmp_path)

    class Client:
        def download_artifacts(self, run: str, name: str) -> str:
            return str(path)

    monkeypatch.setattr("fer_lightning.app.choices._client", Client)
    with pytest.raises(ValueError, match="refused"):
        Choice("a run", "", False, None, "mlflow", "0").load()


def test_a_bundle_contains_no_pickle(tmp_path: Path) -> None:
    """An MLflow model of this project is a bundle: `python_model.pkl` beside it is not read."""
    (tmp_path / "bundle.json").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "MODEL_CARD.md").write_bytes(b"")
    with pytest.raises(BundleError, match="damaged"):
        Bundle.load(tmp_path)


def test_a_cache_cannot_run_code_or_read_devices(tmp_path: Path) -> None:
    for name, content in good_cache().items():
        (tmp_path / name).write_bytes(content)
    assert load(tmp_path) is not None
    about = json.loads((tmp_path / "about.json").read_text())
    evil = npy([1]) + pickle.dumps(np.array([Evil()], dtype=object))
    for content in (evil, pickle.dumps(Evil())):
        (tmp_path / "labels.npy").write_bytes(content)
        about["checksums"]["labels.npy"] = zlib.crc32(content)
        (tmp_path / "about.json").write_text(json.dumps(about))
        assert load(tmp_path) is None
    about["checksums"] = {"/dev/zero": 0}  # which never ends
    (tmp_path / "about.json").write_text(json.dumps(about))
    assert load(tmp_path) is None


# ------------------------------------------------------------------ _target_ and other settings of a checkpoint

HARMFUL = [
    {"_target_": "os.system", "command": "touch stranger"},
    {"_target_": "builtins.eval", "source": "open('stranger', 'w')"},
    {"_target_": "subprocess.Popen", "args": ["touch", "stranger"]},
    {"_target_": "fer_lightning.config.os.system", "command": "touch stranger"},
    {"_target_": "fer_lightning.data.sources.cache.Path.touch", "self": "stranger"},
    {"_target_": "fer_lightning.__main__.main", "arguments": ["predict", "x.png", "--out", "stranger"]},
    {"_target_": "fer_lightning.inference.command.main", "arguments": ["x.png", "--out", "stranger.csv"]},
    {"_target_": "fer_lightning.studies.leaks.command.main", "arguments": ["run"]},
    {"_target_": "fer_lightning.files.write_json", "path": "stranger", "content": {}},
    {
        "_target_": "fer_lightning.training.checkpoint_io.DurableCheckpointIO.save_checkpoint",
        **{"self": None, "checkpoint": {}, "path": "stranger"},
    },
    {"_target_": "pytorch_lightning.core.saving.save_hparams_to_yaml", "config_yaml": "stranger", "hparams": {}},
    {"_target_": "torch.hub.load", "repo_or_dir": "stranger/stranger", "model": "x"},
    {"_target_": ["os.system"]},
]
MISPLACED = [
    {"_target_": "fer_lightning.data.sources.synthetic.synthetic_faces", "count": 2000, "seed": 0},
    {
        "_target_": "fer_lightning.models.timm_body.TimmBody",
        **{"name": "resnet18", "num_classes": 2, "channels": 3, "image_size": 48, "pretrained": True},
    },
]
"""Allowed as data and models, but they start processes, write or download."""


@pytest.mark.parametrize("harmful", HARMFUL, ids=lambda harmful: str(harmful["_target_"]))
def test_a_target_from_a_checkpoint_is_not_called(tmp_path: Path, harmful: dict[str, Any]) -> None:
    evaluation = HYPERPARAMETERS["evaluation"]
    for changed in (
        {"model": {**MODEL, **harmful}},
        {"loss": harmful},
        {"evaluation": {**evaluation, "views": harmful}},
        {"evaluation": {**evaluation, "validation": harmful}},
    ):
        with pytest.raises(ValueError, match=r"is not allowed|is not a network"):
            load_module(checkpoint(tmp_path, **changed))


@pytest.mark.parametrize("harmful", MISPLACED, ids=lambda harmful: str(harmful["_target_"]))
def test_only_views_and_losses_may_be_views_and_losses_of_a_checkpoint(tmp_path: Path, harmful: dict[str, Any]) -> None:
    evaluation = HYPERPARAMETERS["evaluation"]
    for changed in (
        {"loss": harmful},
        *({"evaluation": evaluation | {key: harmful}} for key in ("views", "validation")),
    ):
        with pytest.raises(ValueError, match="is not allowed: "):
            load_module(checkpoint(tmp_path, **changed))


def test_every_allowed_target_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every function under the prefixes, called with paths and dicts as a checkpoint could."""
    for slow in ("draw_faces", "synthetic_faces"):
        monkeypatch.setattr(f"fer_lightning.data.sources.synthetic.{slow}", lambda **_: None)
    called = 0
    for prefix in TARGET_PREFIXES[:4]:
        package = importlib.import_module(prefix.rstrip("."))
        modules = (
            [m.name for m in pkgutil.iter_modules(package.__path__, prefix)] if hasattr(package, "__path__") else []
        )
        for module in modules or [package.__name__]:
            for name, found in inspect.getmembers(importlib.import_module(module), callable):
                if name.startswith("_") or found.__module__ != module:
                    continue
                for value in ("stranger", {"stranger": "stranger"}):
                    with contextlib.suppress(Exception):  # most need other arguments
                        parameters = inspect.signature(found).parameters.values()
                        needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (2, 4)]
                        build({"_target_": f"{module}.{name}", **dict.fromkeys(needed, value)})
                    called += 1
    assert called > 200


def test_a_checkpoint_does_not_determine_output_paths() -> None:
    """The overrides of its training are applied, except those of outputs, tracking and worker processes."""
    module = FERModule(**HYPERPARAMETERS)
    module.hparams["provenance"]["overrides"] = [
        *("model.width=4", "tracking.uri=http://example.org", "paths.output_dir=stranger"),
        *("paths.mlruns_dir=stranger", "hydra.run.dir=stranger", "hydra.searchpath=[file://.]", "paths.data_dir=faces"),
        "data.workers=5000",
    ]
    config = compose_for(module, [])
    assert config.model.width == 4
    assert config.data.workers == 0
    assert config.paths.data_dir == "faces"
    assert config.tracking.uri is None
    assert config.paths.output_dir is None
    assert config.paths.mlruns_dir == "mlruns"


@pytest.mark.parametrize(
    "changed",
    [
        {"width": 10**6},
        {"hidden": 10**9},
        {"image_size": 10**5},
        {"_target_": "fer_lightning.models.timm_body.TimmBody", "name": "vit_giant_patch14_224"},
        {"_target_": "fer_lightning.models.timm_body.TimmBody", "name": "hf-hub:stranger/stranger"},
    ],
)
def test_a_checkpoint_cannot_build_a_larger_network_than_its_weights(tmp_path: Path, changed: dict[str, Any]) -> None:
    model = {**MODEL, **changed}
    if "name" in changed:
        model = {key: model[key] for key in ("_target_", "name", "image_size", "channels", "mean", "std")}
    with pytest.raises(ValueError, match="is not a checkpoint that this project wrote"):
        load_module(checkpoint(tmp_path, model=model))


# ------------------------------------------------------------------ archives


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save(good_checkpoint(), tmp_path / "good.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "good.ckpt") as whole,
        zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in whole.infolist():
            bomb.writestr(member.filename, whole.read(member))
        bomb.writestr("good/data/999", bytes(10_000_000))
    with pytest.raises(ValueError, match="unpack to more than its size"):
        load_module(tmp_path / "bomb.ckpt")


def archive_with(kind: str, path: Path, name: str, link: bool) -> Path:
    """An archive with a file of that name, or a symbolic link of that name to a file outside."""
    text = b"emotion,pixels,Usage\n"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            member = zipfile.ZipInfo(name)
            member.external_attr = (0o120777 if link else 0o100644) << 16
            archive.writestr(member, b"../home/stranger" if link else text)
    else:
        with tarfile.open(path, "w:gz") as archive:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = (tarfile.SYMTYPE, "../home/stranger") if link else (tarfile.REGTYPE, "")
            info.size = 0 if link else len(text)
            archive.addfile(info, None if link else io.BytesIO(text))
    return path


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize(
    ("name", "link"),
    [("../home/stranger", False), ("/tmp/stranger", False), ("..\\stranger", False), ("fer2013.csv", True)],
)
def test_an_archive_cannot_write_outside_of_its_folder(tmp_path: Path, kind: str, name: str, link: bool) -> None:
    (tmp_path / "set").mkdir()
    path = archive_with(kind, tmp_path / "set" / f"fer2013.{kind}", name, link)
    with pytest.raises(DataError) as caught:
        read_faces(path, cache=False)
    assert link or "points outside of the archive" in str(caught.value)
    if kind == "zip":
        with pytest.raises(BundleError):
            Bundle.load(path)
    assert list(path.parent.iterdir()) == [path]
    assert not Path("/tmp/stranger").exists()


def repeated(pack: Any, piece: bytes, times: int) -> bytes:
    """A piece repeated many times and compressed, without the whole in memory."""
    file = io.BytesIO()
    with pack(file, "wb") as compressed:
        for _ in range(times):
            compressed.write(piece)
    return file.getvalue()


@pytest.mark.parametrize("pack", [gzip.open, lzma.open], ids=["gz", "xz"])
def test_an_archive_cannot_unpack_without_bound(tmp_path: Path, pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_lightning.data.sources.readers._MAX_UNPACKED", 10_000_000)
    path = tmp_path / "fer2013.csv.packed"
    path.write_bytes(repeated(pack, b"emotion,pixels,Usage\n" + b"\n" * 999_979, 30))
    with pytest.raises(DataError, match="unpacks to over 10,000,000 bytes"):
        read_faces(path, cache=False)


@contextlib.contextmanager
def additional_memory(limit: int) -> Iterator[None]:
    """Limits the memory that this process may allocate in addition, in bytes."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_csv_of_short_rows_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_lightning.data.sources.chunks.MAX_PROBLEMS", 1000)
    path = tmp_path / "fer2013.csv"
    path.write_bytes(b"emotion,pixels,Usage\n" + b",,\n" * 200_000)
    with (
        additional_memory(1 << 30),
        pytest.raises(DataError, match=r"over 1,000 images cannot be used; the first: .*row 1: 0 pixels"),
    ):
        read_faces(path, cache=False, on_error="skip")


def test_a_tar_whose_header_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fer2013.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("././@LongLink")
        member.type, member.size = tarfile.GNUTYPE_LONGNAME, 8_000_000_000
        archive.fileobj.write(member.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(DataError, match="a header of 8,000,000,000 bytes"):
        read_faces(path, cache=False)


# ------------------------------------------------------------------ images and graphs


def webp_of_size(width: int, height: int) -> bytes:
    """An animated WebP with a canvas of this size."""
    canvas = struct.pack("<II", 2, 0)[:4] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", len(canvas)) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    "content", [png_of_size(100_000, 100_000), png_of_size(8_000, 7_000), webp_of_size(16383, 16383)]
)
def test_a_huge_image_is_refused_by_its_header(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "set" / "train" / "happy" / "1.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with additional_memory(1 << 30):
        with pytest.raises(ImageError):
            read_image(content)
        with pytest.raises(DataError, match="contains no usable image"):
            read_faces(tmp_path / "set", cache=False, on_error="skip", image_size=48)


def test_large_images_of_a_data_set_must_be_resized(tmp_path: Path) -> None:
    path = tmp_path / "set" / "train" / "happy" / "1.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(encoded(noise(600, 600)))
    with pytest.raises(DataError, match=r"600x600 pixels are too many without resizing: set data\.image_size"):
        read_faces(tmp_path / "set", cache=False)
    assert read_faces(tmp_path / "set", cache=False, image_size=48).images.shape == (1, 48, 48)


def test_a_graph_reads_no_file_outside_of_its_bundle(tmp_path: Path) -> None:
    """ONNX may store weights in external files; a graph that names one is refused."""
    onnx = pytest.importorskip("onnx")

    model = onnx.load_from_string(graph())
    [weight] = model.graph.initializer
    weight.ClearField("float_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../home/secret"), ("length", str(4 * 192))):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    content = model.SerializeToString()
    folder = tmp_path / "bundle"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(4 * 192))
    (folder / "model.onnx").write_bytes(content)
    (folder / "bundle.json").write_text(json.dumps(description(content)))
    (folder / "MODEL_CARD.md").write_text("")
    with pytest.raises(BundleError, match="cannot run"):
        FERPredictor.load(folder)


# ------------------------------------------------------------------ network access


def test_every_documented_ui_is_local() -> None:
    texts = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("conf/**/*.yaml"),
        *ROOT.rglob("fer_lightning/**/*.py"),
    ]
    commands = [
        line.strip()
        for path in [*texts, ROOT / "Makefile"]
        for line in path.read_text().splitlines()
        if "mlflow ui --" in line
    ]
    assert len(commands) >= 4
    assert all("mlflow ui --host 127.0.0.1 " in line for line in commands), commands
