"""Malformed inputs for every reader of files and command lines, and the errors that each may raise.

Each input is either accepted or refused: by the reader's own error class with one sentence, or by an exit status with a
line on stderr. `test_malformed.py` tests a few of each kind, `benchmarks/malformed.py` thousands.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gzip
import hashlib
import io
import json
import lzma
import signal
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pandas as pd
import pytorch_lightning as pl
import safetensors.torch
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import CompactHydraException
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from omegaconf import OmegaConf
from PIL import Image

from fer_lightning.__main__ import VERBS
from fer_lightning.__main__ import main as verb
from fer_lightning.app.choices import choices_in
from fer_lightning.cli.command_line import check_command_line, overrides_last
from fer_lightning.data.arrays import DataError, FaceArrays
from fer_lightning.data.sources.cache import load
from fer_lightning.data.sources.readers import read_faces
from fer_lightning.inference.bundle import BundleError
from fer_lightning.inference.images import ImageError, read_image
from fer_lightning.inference.predict import FERPredictor
from fer_lightning.labels import EMOTIONS, FERPLUS_COLUMNS, USAGES
from fer_lightning.models.network import build_network, load_weights
from fer_lightning.run.resolvers import register_resolvers
from fer_lightning.run.resume import STATE, RunState, StartPoint
from fer_lightning.run.train import train
from fer_lightning.studies.audit.findings import out_of_fold
from fer_lightning.studies.compare import Measurement, compare
from fer_lightning.training.distillation import Distiller
from fer_lightning.training.module import FERModule, load_module

CONF = Path(__file__).parents[1] / "conf"
SECONDS = 20
"""Time limit of an input."""


class Hang(BaseException):
    """An input exceeded the time limit."""


@dataclass(frozen=True)
class Target:
    """A reader of untrusted input.

    Attributes:
        name: Name in tables.
        inputs: Its inputs, most of them malformed.
        feed: Function of an input and an empty folder that returns if the input is accepted.
        refusals: Errors that it may raise otherwise, with one sentence.
    """

    name: str
    inputs: SearchStrategy[Any]
    feed: Callable[[Any, Path], None]
    refusals: tuple[type[BaseException], ...]

    def accepts(self, given: Any) -> bool:
        """Whether an input is accepted; any error that is not a refusal is raised."""
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), limited(SECONDS):
            try:
                self.feed(given, Path(folder))
            except self.refusals as refusal:
                message = str(refusal)
                assert 8 < len(message) < 5000, message
                assert "Traceback" not in message, message
                return False
            return True


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise `Hang` after this many seconds."""

    def on_alarm(*_: Any) -> None:
        raise Hang(f"over {seconds} s")

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------ malformed values

odd_integers = st.sampled_from([-1, 0, 1, 2, 3, 255, 2**16, 2**31 - 1, 2**31, 10**9, 2**63, 2**64, -(2**63)])
odd_texts = st.sampled_from(
    ["", " ", "../../x", "/etc/passwd", "C:\\x", "\0", "nan", "1e999", "\ud800", "a" * 10_000, "${oc.env:HOME}", "???"]
) | st.text(max_size=12)
odd_targets = st.sampled_from(
    ["os.system", "builtins.eval", "fer_lightning.config.os.system", "fer_lightning.studies.baselines.command.main"]
).map(lambda name: {"_target_": name, "arguments": ["run"], "command": "touch stranger"})
odd_values: SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), odd_integers, st.floats(), odd_texts, odd_targets,
    st.builds(list), st.builds(dict), st.lists(odd_integers, max_size=3), st.builds(lambda: nested(4)),
    st.builds(lambda: nested(900)),
)  # fmt: skip
"""Lists and dicts are new each time, since `corrupted` modifies them."""


def nested(depth: int) -> list[Any]:
    """An empty list nested in lists."""
    return functools.reduce(lambda inner, _: [inner], range(depth - 1), [])


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with flipped bits, truncated, with parts removed, repeated or replaced by numbers or noise."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([1, 2, 4, 8, 100, 5000]))
        kind = draw(st.sampled_from(["flip", "cut", "remove", "repeat", "number", "noise"]))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        elif kind == "number":
            packed = struct.pack(draw(st.sampled_from(["<q", ">q"])), draw(odd_integers.filter(lambda n: n < 2**63)))
            data[at : at + 4] = packed[:4] if packed[0] else packed[4:]
        else:
            data[at:at] = draw(st.binary(max_size=16))
    return bytes(data)


@st.composite
def corrupted(draw: st.DrawFn, whole: Any) -> Any:
    """Nested lists and dicts in which an item is missing, added or of another type."""
    result = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        node = result
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], (dict, list)) and node[key] and draw(st.integers(0, 3)):
                node = node[key]
                continue
            action = draw(st.sampled_from(["change", "change", "drop", "add"]))
            if action == "drop":
                del node[key]
            elif action == "add" and isinstance(node, dict):
                node[draw(odd_texts)] = draw(odd_values)
            else:
                node[key] = draw(odd_values)
            break
    return result


# ------------------------------------------------------------------ data sets

ROW = " ".join(["7"] * 48 * 48)
GOOD_CSV = "emotion,pixels,Usage\n" + "".join(f"{n},{ROW},{usage}\n" for n, usage in enumerate(USAGES))


@st.composite
def csv_texts(draw: st.DrawFn) -> bytes:
    """Text in the format of FER2013's csv, with invalid fields."""
    emotions = st.sampled_from(["0", "6", "7", "-1", "", "3.0", "x" * 99, "٣", '"1"'])
    numbers = st.sampled_from(["0", "255", "256", "-1", "1.5", "", "0000001", "9" * 400, "٣", "nan", "\0", "\t"])
    pixels = st.one_of(st.just(ROW), st.just(""), numbers, numbers.map(lambda n: ROW[:-1] + n), st.just(ROW + " 1"))
    usages = st.sampled_from([*USAGES, "Train", "", "Training\0", "\xa0Training"])
    fields = st.tuples(emotions, pixels, usages).map(",".join)
    junk = st.sampled_from([",,", "", ",", "\x00", ",,,,,,", "\ufeff", '"']) | st.text(max_size=30)
    lines = draw(st.lists(fields | junk, max_size=6))
    header = draw(
        st.sampled_from(["emotion,pixels,Usage", " Usage ,emotion, pixels", "emotion,pixels", "pixels,,Usage"])
    )
    end = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"]))
    return end.join([header, *lines]).encode("utf-8", "surrogatepass")


csvs = csv_texts() | damaged(GOOD_CSV.encode()) | st.binary(max_size=200)


def feed_csv(content: bytes, folder: Path) -> None:
    (folder / "fer2013.csv").write_bytes(content)
    for on_error in ("skip", "stop"):
        faces = read_faces(folder / "fer2013.csv", cache=False, on_error=on_error)
        assert faces.images.shape[1:] == (48, 48)


packed_csvs = st.one_of(
    csvs.map(gzip.compress),
    csvs.map(lzma.compress),
    *(damaged(pack(GOOD_CSV.encode())) for pack in (gzip.compress, lzma.compress)),
)


def image(kind: str = "PNG", mode: str = "L", size: tuple[int, int] = (20, 20), **options: Any) -> bytes:
    file = io.BytesIO()
    shades = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[::-1])
    Image.fromarray(shades).convert(mode).save(file, kind, **options)
    return file.getvalue()


member_names = st.sampled_from(
    [
        *("fer2013.csv", "train/happy/1.png", "train/sad/2.png", "test/happy/1.png", "x/train/happy/1.jpg", "1.png"),
        *(
            "../fer2013.csv",
            "/tmp/fer2013.csv",
            "..\\fer2013.csv",
            "C:\\fer2013.csv",
            "train/../../1.png",
            "",
            ".",
            "/",
        ),
    ]
) | st.text(max_size=8)
contents = st.sampled_from([GOOD_CSV.encode(), image(), b""]) | csv_texts() | damaged(image())


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    file = io.BytesIO()
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    with zipfile.ZipFile(file, "w") as archive:
        for name in draw(st.lists(member_names, max_size=4, unique=True)):
            with contextlib.suppress(UnicodeEncodeError, IndexError):  # invalid names
                archive.writestr(name, draw(contents), draw(st.sampled_from(methods)))
    return draw(st.just(file.getvalue()) | damaged(file.getvalue()))


@st.composite
def tars(draw: st.DrawFn) -> bytes:
    file = io.BytesIO()
    mode = draw(st.sampled_from(["w", "w:gz", "w:xz"]))
    kinds = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
    with tarfile.open(fileobj=file, mode=mode, format=draw(st.sampled_from([0, 1, 2]))) as archive:
        for name in draw(st.lists(member_names, max_size=3)):
            member = tarfile.TarInfo(name)
            member.type = draw(st.sampled_from(kinds))
            member.linkname = "/etc/passwd"
            content = draw(contents) if member.isreg() else b""
            member.size = len(content)
            with contextlib.suppress(UnicodeEncodeError, ValueError):
                archive.addfile(member, io.BytesIO(content))
    return draw(st.just(file.getvalue()) | damaged(file.getvalue()))


def feed_archive(content: bytes, folder: Path) -> None:
    (folder / "set").mkdir()
    path = folder / "set" / "archive.zip"
    path.write_bytes(content)
    read_faces(path, cache=False, on_error="skip", image_size=16, channels=1)
    assert list(folder.rglob("*")) == [path.parent, path]


@st.composite
def votes(draw: st.DrawFn) -> bytes:
    cells = st.sampled_from(["0", "10", "-1", "1.5", "", "999", "1000", "x", "٣", '"', "\0"]) | st.text(max_size=5)
    header = ["Usage", "Image name", *FERPLUS_COLUMNS]
    rows = [[usage, "fer.png", *["1"] * 10] for usage in USAGES]
    for _ in range(draw(st.integers(0, 4))):
        row = draw(st.sampled_from([header, *rows]))
        row[draw(st.integers(0, len(row) - 1))] = draw(cells)
    text = "\n".join(map(",".join, [header, *rows[: draw(st.integers(0, 3))]])).encode("utf-8", "surrogatepass")
    return draw(st.just(text) | damaged(text))


def feed_votes(content: bytes, folder: Path) -> None:
    (folder / "fer2013.csv").write_text(GOOD_CSV)
    (folder / "votes.csv").write_bytes(content)
    faces = read_faces(folder / "fer2013.csv", votes_path=folder / "votes.csv", cache=False)
    assert faces.votes is not None
    assert faces.votes.shape == (3, 10)


# ------------------------------------------------------------------ images


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims this size, with few pixels."""
    head = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


images = st.one_of(
    st.binary(max_size=100),
    st.builds(png_of_size, odd_integers, odd_integers),
    *(damaged(image(kind)) for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "AVIF")),
    *(damaged(image("TIFF", mode)) for mode in ("I;16", "F", "CMYK")),
    damaged(image("JPEG", "RGB", progressive=True)),
    damaged(image("PNG", "P", transparency=3)),
)


def feed_image(content: bytes, folder: Path) -> None:
    pixels = read_image(content)
    assert pixels.ndim == 2 or pixels.shape[2] == 3


def feed_image_of_a_set(content: bytes, folder: Path) -> None:
    for name in EMOTIONS:
        (folder / "set" / "train" / name).mkdir(parents=True)
        (folder / "set" / "train" / name / "1.png").write_bytes(image())
    (folder / "set" / "train" / "sad" / "2.png").write_bytes(content)
    read_faces(folder / "set", cache=False, on_error="skip")
    read_faces(folder / "set", cache=False, image_size=16, channels=1)


# ------------------------------------------------------------------ caches


@functools.cache
def good_cache() -> dict[str, bytes]:
    """The files of a cache."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fer2013.csv")
        path.write_text(GOOD_CSV)
        read_faces(path)
        [stored] = Path(folder).glob(".fer*/*/about.json")
        return {file.name: file.read_bytes() for file in stored.parent.iterdir()}


@st.composite
def caches(draw: st.DrawFn) -> dict[str, bytes]:
    """Damaged caches, some of them with correct checksums."""
    files = dict(good_cache())
    about = json.loads(files["about.json"])
    name = draw(st.sampled_from(sorted(files)))
    if name == "about.json":
        files[name] = draw(damaged(files[name]) | corrupted(about).map(_as_json))
        return files
    files[name] = draw(damaged(files[name]) | st.builds(npy, st.lists(odd_integers, max_size=3)))
    if draw(st.booleans()):
        about["checksums"][name] = zlib.crc32(files[name])
        files["about.json"] = json.dumps(about).encode()
    return files


def npy(shape: list[int], kind: str = "|O") -> bytes:
    """A .npy header that claims a shape, of pickled objects."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {tuple(shape)!r}}}".encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def _as_json(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except RecursionError:
        return b"[" * 100_000


def feed_cache(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    faces = load(folder)
    if faces is None:
        raise DataError("built again from its source")
    assert faces.labels.max() < len(faces.classes)
    np.asarray(faces.images).sum()


# ------------------------------------------------------------------ checkpoints

MODEL = {
    **{"_target_": "fer_lightning.models.custom_cnn.CustomCNN", "width": 4, "hidden": 8, "dropout": 0.5},
    **{"weights": None, "image_size": 24, "channels": 1, "mean": 0.5, "std": 0.5},
}
HYPERPARAMETERS = {
    "model": MODEL,
    "loss": {"_target_": "fer_lightning.training.losses.FocalLoss", "gamma": 2.0, "class_weights": "balanced"},
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.1},
    "scheduler": {"_target_": "fer_lightning.training.optim.constant"},
    "evaluation": {
        "views": {"_target_": "fer_lightning.models.tta.shifts", "_partial_": True, "shift": 0.1},
        **{"validation": None, "average": "probabilities", "split": "test", "bootstrap": 20},
    },
    "classes": list(EMOTIONS),
    "class_counts": [5] * 7,
    "provenance": {
        **{"data": "synthetic", "data_fingerprint": "0" * 64, "protocol": "official"},
        **{"overrides": ["data=synthetic", "model.width=4"], "config_sources": [], "config": {"seed": 0}},
    },
    "on_nan": "stop",
}


@functools.cache
def good_checkpoint() -> dict[str, Any]:
    """The checkpoint that Lightning saves of an untrained network."""
    module = FERModule(**HYPERPARAMETERS)
    module.history = [{"epoch": 1, "val/accuracy": 0.5}]
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    with tempfile.TemporaryDirectory() as folder:
        trainer.save_checkpoint(f"{folder}/last.ckpt")
        saved: dict[str, Any] = torch.load(f"{folder}/last.ckpt", weights_only=True)
    return saved


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@functools.cache
def network() -> Any:
    return build_network(MODEL, len(EMOTIONS))


@st.composite
def checkpoints(draw: st.DrawFn) -> bytes:
    whole = good_checkpoint()
    if draw(st.integers(0, 2)) == 0:
        return draw(damaged(saved(whole)) | st.binary(max_size=50))
    part = draw(st.sampled_from(["hyper_parameters", "hyper_parameters", "state_dict", "history", None]))
    content = draw(corrupted(whole)) if part is None else {**whole, part: draw(corrupted(whole[part]))}
    try:
        return saved(content)
    except (RecursionError, OverflowError, UnicodeEncodeError, TypeError, ValueError):
        return b""


def feed_checkpoint(content: bytes, folder: Path) -> None:
    path = folder / "last.ckpt"
    path.write_bytes(content)
    refused = None
    try:
        config = OmegaConf.create({**HYPERPARAMETERS, "trainer": {"max_epochs": 1}})
        StartPoint.read(path).check_config(config, network().body)
    except ValueError as error:
        refused = error
    assert load_module(path).classes
    if refused:
        raise refused


@st.composite
def weights(draw: st.DrawFn) -> tuple[str, bytes]:
    tensors = network().state_dict()
    good = {".safetensors": safetensors.torch.save(tensors), ".pt": saved(tensors), ".ckpt": saved(good_checkpoint())}
    ending = draw(st.sampled_from(sorted(good)))
    if ending != ".safetensors" and draw(st.booleans()):
        with contextlib.suppress(Exception):
            return ending, saved(draw(corrupted(dict(tensors))))
    return ending, draw(damaged(good[ending]))


def feed_weights(given: tuple[str, bytes], folder: Path) -> None:
    path = folder / f"weights{given[0]}"
    path.write_bytes(given[1])
    load_weights(network(), path)


# ------------------------------------------------------------------ bundles


@functools.cache
def graph() -> bytes:
    """The ONNX file of a network with one layer."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    network = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("Gemm", ["flat", "w"], ["logits"])],
        "net",
        [helper.make_tensor_value_info("image", kind, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", kind, ["batch", 3])],
        [helper.make_tensor("w", kind, [64, 3], np.linspace(-1, 1, 192).tolist())],
    )
    model = helper.make_model(network, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def description(content: bytes) -> dict[str, Any]:
    return {
        **{"format": 1, "name": "net", "classes": ["a", "b", "c"], "input": {"size": 8, "channels": 1}},
        "graphs": {"float": {"file": "model.onnx", "sha256": hashlib.sha256(content).hexdigest()}},
        "scores": {"test": {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "macro_f1": 0.4}},
        "training": {"data": "fer2013", "protocol": "official"},
    }


@st.composite
def bundles(draw: st.DrawFn) -> dict[str, bytes] | bytes:
    """The files of a bundle's folder, or its zip."""
    content = draw(st.just(graph()) | damaged(graph()))
    valid = description(content)
    files = {
        "bundle.json": draw(corrupted(valid).map(_as_json) | st.just(_as_json(valid)) | damaged(_as_json(valid))),
        "model.onnx": content,
        "MODEL_CARD.md": draw(st.just(b"# net\n") | st.binary(max_size=9)),
    }
    if draw(st.integers(0, 5)) == 0:
        del files[draw(st.sampled_from(sorted(files)))]
    if draw(st.booleans()):
        return files
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data, draw(st.sampled_from([zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])))
    return draw(st.just(file.getvalue()) | damaged(file.getvalue()))


def feed_bundle(given: dict[str, bytes] | bytes, folder: Path) -> None:
    path = folder / "bundle"
    if isinstance(given, bytes):
        path.write_bytes(given)
    else:
        path.mkdir()
        for name, content in given.items():
            (path / name).write_bytes(content)
        choices_in(folder)
    predictor = FERPredictor.load(path, threads=1)
    predictor.predict(np.zeros((48, 48), np.uint8))


# ------------------------------------------------------------------ outputs of runs


def table(rows: int = 4) -> bytes:
    file = io.BytesIO()
    columns = {"index": range(rows), "label": ["happy", "sad"] * (rows // 2), "predicted": ["happy"] * rows}
    pd.DataFrame({**columns, **{f"p_{name}": 1 / 7 for name in EMOTIONS}}).to_parquet(file, index=False)
    return file.getvalue()


RECORD = {
    **{"name": "run", "data": "by_hand", "data_fingerprint": "0" * 64, "protocol": "official", "seed": 0},
    **{"evaluation": {"split": "test"}, "test": {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6]}, "val": {}},
    **{"command": "python train.py", "members": [{"checkpoint": "best.ckpt", "weight": 1.0}], "minutes": 1.0},
}
RESUMED = {"settings": {"seed": 0}, "objective": [0.5, 1.0]}
runs = st.one_of(
    st.tuples(corrupted(RECORD).map(_as_json) | damaged(_as_json(RECORD)), st.just(table()), st.just(b"")),
    st.tuples(st.just(_as_json(RECORD)), damaged(table()), st.just(b"")),
    st.tuples(st.just(_as_json(RECORD)), st.just(table()), corrupted(RESUMED).map(_as_json) | st.binary(max_size=40)),
)


@functools.cache
def measured_faces() -> FaceArrays:
    images = np.zeros((4, 8, 8), np.uint8)
    names, usage = np.array([b"a"] * 4), np.array(["PrivateTest"] * 4)
    return FaceArrays(images, np.zeros(4, np.int64), usage, EMOTIONS, "by_hand", "0" * 64, names)


def feed_run(given: tuple[bytes, bytes, bytes], folder: Path) -> None:
    for name, content in zip(("record.json", "predictions.parquet", STATE), given, strict=True):
        (folder / name).write_bytes(content)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best.ckpt").touch()
    state = RunState.read(folder)
    assert state is None or isinstance(state.settings, dict)
    assert len(choices_in(folder)) == 1
    refused = None
    for read in (
        lambda: compare(Measurement.read(folder), Measurement.read(folder)),
        lambda: out_of_fold(folder, measured_faces()),
        lambda: Distiller([str(folder)]),
    ):
        try:
            read()
        except ValueError as error:
            refused = error
    if refused:
        raise refused


# ------------------------------------------------------------------ command lines

KEYS = [
    *("optimizer.lr", "optimizer.weight_decay", "trainer.batch_size", "trainer.max_epochs", "trainer.precision"),
    *("model.width", "model.image_size", "model.channels", "model.dropout", "model.mean", "model.weights", "model"),
    *("loss.gamma", "loss", "optimizer", "scheduler", "trainer", "data", "data.count", "data.path", "data.workers"),
    *("eval", "eval.average", "seed", "objective", "objective_mode", "second_objective", "resume", "callbacks"),
    *("augmentation", "protocol", "finetune", "experiment", "paths.results_dir", "trainer.on_nan", "trainer.devices"),
    *("model._target_", "loss._target_", "eval.views._target_", "data.source._target_", "callbacks.ema.decay"),
]
VALID_CHOICES = [
    *("model=vgg", "loss=focal", "scheduler=plateau", "augmentation=strong", "callbacks=ema", "finetune=frozen"),
    *("eval=tta", "protocol=kfold", "trainer=cpu", "model=timm", "experiment=custom_cnn", "data=folder"),
]
override_values = st.one_of(
    st.sampled_from(["", "0", "-1", "1", "nan", "inf", "null", "true", "[1,2]", "{a:1}", "'", "x", "auto", "1e-3"]),
    st.sampled_from(
        ["os.system", "1,2", "choice(1,2)", "${seed}", "${nothing}", "???", "../..", "~nobody/x", "a" * 900, "9" * 40]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
)
override_texts = st.one_of(
    st.builds("{}={}".format, st.sampled_from(KEYS), override_values),
    st.builds("{}{}={}".format, st.sampled_from("+~"), st.sampled_from(KEYS), override_values),
    st.sampled_from(VALID_CHOICES),
    st.builds(
        "{}={}".format, st.sampled_from(["optimiser.lr", "model.widht", "trainer", "modle", "a.b.c"]), override_values
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
)


class ReachedDataError(Exception):
    """All checks before reading data have passed."""


def feed_training(arguments: list[str], folder: Path) -> None:
    """Run train.py up to reading data."""
    arguments = overrides_last(arguments)
    if any(argument.startswith("-") for argument in arguments):
        return  # a flag is for Hydra's own parser
    register_resolvers()
    GlobalHydra.instance().clear()
    check_command_line(CONF, arguments)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        outputs = [f"paths.output_dir={folder}/run", f"paths.mlruns_dir={folder}/mlruns"]
        config = compose("config", [*arguments, *outputs])
    with mock.patch("fer_lightning.run.train.prepare_data", side_effect=ReachedDataError):
        try:
            train(config)
        except ReachedDataError:
            return


VERB_ARGUMENTS = {
    "app": ["--port", "--model", "--address", "99999999", "-1", "x", "nowhere.ckpt"],
    "audit": ["predictions=nowhere", "predictions=", "data=fer2013", "data.path=nowhere", "data=x", "write"],
    "baselines": ["write", "run", "nothing", "--seeds", "x", "--minutes", "-1", "--seeds=", "--minutes=x"],
    "leaks": ["write", "x", "protocol=official", "run -"],
    "predict": ["--whole", "--detect", "--fps", "--out", "--format", "--graph", "--model", "--detector", "x.png", "-"],
}
CHECKPOINT_ARGUMENTS = [
    *(
        "checkpoint=",
        "checkpoint=nowhere",
        "checkpoint=.",
        "checkpoint=junk.ckpt",
        "eval=x",
        "eval.split=",
        "=",
        "json=",
    ),
    *("members=[]", "members=[junk.ckpt]", "members=*", "recipe=x", "recipe=../x", "weights=x", "out=", "format=x"),
    *("int8=maybe", "data.path=x", "junk.ckpt", ".", "nowhere"),
]


@st.composite
def verb_arguments(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from([*VERBS, "predict", "nothing"]))
    known = st.sampled_from(VERB_ARGUMENTS.get(name, CHECKPOINT_ARGUMENTS))
    arguments = draw(st.lists(known | override_texts, max_size=5))
    if name == "audit":
        arguments.append("data=fer2013")
    if name in ("baselines", "leaks") and "run" in arguments:
        arguments += ["nothing"]  # starts no training
    if name == "predict" and "-" in arguments:
        arguments.remove("-")
    return [name, *arguments]


def feed_verb(arguments: list[str], folder: Path) -> None:
    (folder / "junk.ckpt").write_bytes(b"junk")
    (folder / "x.png").write_bytes(image())
    register_resolvers()
    stderr = io.StringIO()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(stderr),
        mock.patch("fer_lightning.app.command.serve", return_value=0),
        mock.patch("fer_lightning.studies.baselines.command.write"),
        mock.patch("fer_lightning.studies.leaks.write"),
        mock.patch("subprocess.Popen", side_effect=AssertionError("a process was started")),
    ):
        try:
            status = verb(arguments)
        except SystemExit as stop:
            status = int(stop.code or 0)
    assert "Traceback" not in stderr.getvalue()
    if status:
        assert status in (1, 2)
        raise ValueError(stderr.getvalue() or "it printed its help")


# ------------------------------------------------------------------ all readers

TARGETS = [
    Target("FER2013's csv", csvs, feed_csv, (DataError,)),
    Target("csv.gz, csv.xz", packed_csvs, feed_csv, (DataError,)),
    Target("zip archives", zips(), feed_archive, (DataError,)),
    Target("tar archives", tars(), feed_archive, (DataError,)),
    Target("FER+ votes", votes(), feed_votes, (DataError,)),
    Target("images of a data set", images, feed_image_of_a_set, (DataError,)),
    Target("images to predict", images, feed_image, (ImageError,)),
    Target("caches", caches(), feed_cache, (DataError,)),
    Target("checkpoints", checkpoints(), feed_checkpoint, (ValueError,)),
    Target("weights", weights(), feed_weights, (ValueError,)),
    Target("bundles", bundles(), feed_bundle, (BundleError,)),
    Target("records and tables", runs, feed_run, (ValueError,)),
    Target(
        "arguments of train.py",
        st.lists(override_texts, min_size=1, max_size=4),
        feed_training,
        (ValueError, CompactHydraException),
    ),
    Target("arguments of fer_lightning", verb_arguments(), feed_verb, (ValueError,)),
]
