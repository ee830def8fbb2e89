import base64
import copy
import dataclasses
import json
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.predictions import probabilities_of
from helpers.processes import run_train
from helpers.runs import TINY, edited_checkpoint

from fer_lightning import __main__ as entry
from fer_lightning.config import ROOT
from fer_lightning.export import build, graphs, mlflow_run
from fer_lightning.export import source as sources
from fer_lightning.export.build import ExportFaces, LabelledFaces, evenly_spaced
from fer_lightning.export.parity import ExportError, Parity, check_parity
from fer_lightning.export.source import ExportSource, copy_for_export
from fer_lightning.inference.bundle import Bundle
from fer_lightning.inference.predict import FERPredictor
from fer_lightning.labels import EMOTIONS
from fer_lightning.models.network import FERNetwork, build_network, training_input_size
from fer_lightning.studies import trained
from fer_lightning.training.module import load_module

RUN = [*TINY, "model=compact", "model.widths=[8,16]", "model.depths=[1,1]"]
ONE_BLOCK = {
    "_target_": "fer_lightning.models.small_resnet.SmallResNet",
    "widths": [8],
    "depths": [1],
    "stem_stride": 2,
    "mean": 0.4,
    "std": 0.2,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = run_train(*RUN, f"hydra.run.dir={folder}", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder


def export(run: Path, *arguments: str) -> int:
    return entry.main(["export", f"checkpoint={run}/checkpoints/best.ckpt", *arguments])


def test_a_bundle_predicts_like_the_checkpoint(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(build, "MAX_INT8_LOSS", 0.05)  # one of 20 faces is 5 points
    out = tmp_path / "bundle"
    assert export(run, "int8=true", f"out={out}", "name=tiny") == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "MODEL_CARD.md", "bundle.json", "model.onnx", "model_int8.onnx",
    ]  # fmt: skip
    bundle = Bundle.load(out)
    assert (bundle.name, bundle.classes, bundle.input_size, bundle.channels) == ("tiny", EMOTIONS, 24, 1)
    assert bundle.graphs == ("float", "int8")

    parity = bundle.description["parity"]
    assert parity["ONNX"]["max_probability_difference"] < 1e-5
    assert parity["ONNX"]["agreement"] == 1
    assert parity["ONNX int8"]["bytes"] < parity["ONNX"]["bytes"]
    record = json.loads((run / "record.json").read_text())
    assert parity["PyTorch"]["test_accuracy"] == pytest.approx(record["test"]["accuracy"])
    assert bundle.scores["test"]["accuracy"] == pytest.approx(record["test"]["accuracy"])
    assert bundle.scores["test"]["accuracy_interval"][0] <= bundle.scores["test"]["accuracy"]
    assert set(bundle.scores["test"]["per_class_f1"]) == set(EMOTIONS)
    training = bundle.description["training"]
    assert (training["data"], training["protocol"]) == ("synthetic", "official")
    assert "model.widths=[8,16]" in training["command"]
    for text in ("# tiny", "these numbers say nothing about real faces", "Intended use", "Lowest F1"):
        assert text in bundle.card
    assert "ONNX int8" in capsys.readouterr().out

    assert entry.main(["calibrate", f"checkpoint={run}"]) == 0
    [calibrated] = (run / "checkpoints").glob("*.calibration.json")
    temperature = bundle.description["temperature"]["value"]
    assert temperature == pytest.approx(json.loads(calibrated.read_text())["temperature"], rel=1e-3)
    network = load_module(run / "checkpoints" / "best.ckpt").network.eval()
    faces = torch.rand(5, 1, 24, 24)
    predictions = FERPredictor.load(out).predict(faces)
    with torch.no_grad():
        expected = (network(faces) / temperature).softmax(dim=1).numpy()
    np.testing.assert_allclose([probabilities_of(p) for p in predictions], expected, atol=1e-5)


@pytest.mark.usefixtures("faces_drawn_once")
def test_the_graph_of_a_network_trained_on_crops_crops_whole_faces(run: Path, tmp_path: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    with edited_checkpoint(best, tmp_path / "crops.ckpt") as content:
        content["hyper_parameters"]["provenance"]["overrides"] += ["eval=ten_crop", "eval.views.size=0.75"]
        content["hyper_parameters"]["provenance"]["config_sources"] = ["--config-dir=my"]
        del content["hyper_parameters"]["provenance"]["config"]["eval"]  # that of other test-time views
    assert entry.main(["export", f"checkpoint={tmp_path}/crops.ckpt", f"out={tmp_path}/bundle"]) == 0
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.input_size == 24
    assert bundle.description["networks"][0]["crop"] == 0.75
    assert bundle.description["training"]["command"].startswith("python train.py --config-dir=my data=synthetic ")
    assert "its centre for networks trained on crops" in bundle.card
    network, temperature = load_module(best).network.eval(), bundle.description["temperature"]["value"]
    faces = torch.rand(5, 1, 24, 24)
    with torch.no_grad():
        expected = (network(faces[..., 3:21, 3:21]) / temperature).softmax(dim=1).numpy()
    predictions = FERPredictor(bundle).predict(faces)
    np.testing.assert_allclose([probabilities_of(p) for p in predictions], expected, atol=1e-5)


@pytest.mark.usefixtures("no_figures", "faces_drawn_once")
def test_an_ensemble_is_exported_as_one_graph(tiny_runs: list[Path], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    members_argument = f"members=[{','.join(map(str, tiny_runs))}]"
    assert entry.main(["ensemble", members_argument, "weights=fitted", "publish=three", "eval=plain"]) == 0
    folder = Path("outputs") / "ensembles" / "three"
    members = json.loads((folder / "record.json").read_text())["members"]
    for member, weight in zip(members, (0.6, 0.0, 0.4), strict=True):
        member["weight"] = weight
    record = json.loads((folder / "record.json").read_text()) | {"members": members}
    (folder / "record.json").write_text(json.dumps(record))

    assert entry.main(["export", f"checkpoint={folder}"]) == 0
    bundle = Bundle.load(folder / "bundle")
    described = bundle.description
    voting = [member for member in members if member["weight"]]
    assert [network["weight"] for network in described["networks"]] == [0.6, 0.4]
    assert [n["checkpoint_sha256"] for n in described["networks"]] == [m["checkpoint_sha256"] for m in voting]
    assert described["training"]["command"] == record["command"]
    assert described["training"]["parameters"] == sum(member["params"] for member in voting)
    assert "an ensemble of 2 networks" in bundle.card
    assert described["parity"]["ONNX"]["max_probability_difference"] < 1e-5

    networks = [load_module(Path(member["checkpoint"])).network.eval() for member in voting]
    faces = torch.rand(5, 1, 24, 24)
    with torch.no_grad():
        vote = sum(weight * network(faces).softmax(dim=1) for weight, network in zip((0.6, 0.4), networks, strict=True))
    expected = (vote.log() / described["temperature"]["value"]).softmax(dim=1).numpy()
    predictions = FERPredictor.load(folder / "bundle").predict(faces)
    np.testing.assert_allclose([probabilities_of(p) for p in predictions], expected, atol=1e-5)

    del record["command"]
    (folder / "record.json").write_text(json.dumps(record))
    assert entry.main(["export", f"checkpoint={folder}"]) == 2
    assert "record.json is not a record of a run: it lacks command" in capsys.readouterr().err


def test_an_export_that_deviates_from_pytorch_is_discarded(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    out = tmp_path / "somewhere" / "bundle"
    write_onnx = graphs.write_onnx

    def write_wrong_onnx(network: FERNetwork, *arguments: object) -> None:
        network = copy.deepcopy(network)
        network.body.head[-1].bias.data[0] += 1
        write_onnx(network, *arguments)

    monkeypatch.setattr(graphs, "write_onnx", write_wrong_onnx)
    assert export(run, f"out={out}") == 1
    assert "ONNX differs from PyTorch by" in capsys.readouterr().err
    assert list(out.parent.iterdir()) == []
    out.mkdir()
    (out / "bundle.json").write_text("the previous bundle")
    assert export(run, f"out={out}") == 1
    assert [path.read_text() for path in out.iterdir()] == ["the previous bundle"]
    monkeypatch.undo()
    assert export(run, f"out={out}") == 0
    assert Bundle.load(out).name == "bundle"
    assert list(out.parent.iterdir()) == [out]


def test_a_bundle_that_cannot_be_loaded_is_discarded(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    description = build.description
    monkeypatch.setattr(build, "description", lambda *given: description(*given) | {"classes": ["only one"]})
    monkeypatch.setattr(build, "model_card", lambda *_: "")
    assert export(run, f"out={tmp_path}/made/bundle") == 2
    assert "does not match the input and classes in bundle.json" in capsys.readouterr().err
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["format=tflite"], "format=tflite is unknown; formats are onnx, executorch, torch_export"),
        (["int8=yes"], "int8 is 'yes'; it must be true or false"),
        (["out={run}"], "exists and is not a bundle"),
        (["protocol=nothing"], "nothing"),
    ],
)
def test_usage_errors_are_one_sentence(run: Path, capsys, monkeypatch, arguments: list[str], message: str) -> None:
    monkeypatch.setattr(build, "_build", lambda *_: pytest.fail("the export started"))
    assert export(run, *(argument.format(run=run) for argument in arguments)) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_a_checkpoint_is_required(tmp_path: Path, capsys) -> None:
    assert entry.main(["export", "int8=true"]) == 2
    assert "checkpoint=" in capsys.readouterr().err
    assert entry.main(["export", f"checkpoint={tmp_path}/none.ckpt"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert entry.main(["export"]) == 2
    assert entry.main(["export", "--help"]) == 0


ROW = Parity(0.0, 0.0, 1.0, 1000, 0.7, 0, 1.0)


def test_parity_limits() -> None:
    good = {
        "PyTorch": ROW,
        "ONNX": dataclasses.replace(ROW, max_probability_difference=9.9e-5),
        "ONNX int8": dataclasses.replace(ROW, max_probability_difference=0.3, test_accuracy=0.6901),
    }
    check_parity(good)
    for name, change in {
        "ONNX": {"max_probability_difference": 1.1e-4},
        "ExecuTorch": {"max_probability_difference": float("nan")},
        "ONNX int8": {"test_accuracy": 0.6899},
    }.items():
        with pytest.raises(ExportError, match=f"^{name} "):
            check_parity({**good, name: dataclasses.replace(ROW, **change)})


def test_evenly_spaced_rows() -> None:
    assert evenly_spaced(np.arange(100), 5).tolist() == [0, 25, 50, 74, 99]
    assert evenly_spaced(np.arange(3), 5).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("network", "crop", "shape", "expected"),
    [
        ({"image_size": 48, "channels": 1}, 1, (48, 48), (48, 1)),
        ({"image_size": 96, "channels": 3}, 1, (48, 48), (48, 1)),  # the graph upscales as in training
        ({"image_size": 48, "channels": 1}, 1, (100, 100, 3), (48, 1)),  # the predictor shrinks like the network
        ({"image_size": 40, "channels": 1}, 0.833, (48, 48), (48, 1)),  # the graph crops
        ({"image_size": 224, "channels": 3}, 0.949, (48, 48), (48, 1)),
        ({"image_size": 40, "channels": 1}, 0.833, (100, 100), (48, 1)),
    ],
)
def test_graphs_take_images_of_the_training_resolution(
    network: dict, crop: float, shape: tuple, expected: tuple
) -> None:
    model = {
        "_target_": "fer_lightning.models.small_resnet.SmallResNet",
        "widths": [8],
        "depths": [1],
        "stem_stride": 2,
    }
    built = build_network({**model, **network, "mean": 0.5, "std": 0.5}, 3).eval()
    built.crop = crop
    assert training_input_size(built, shape) == expected


def test_a_graph_that_upscales_takes_any_batch_size(tmp_path: Path) -> None:
    model = {
        "_target_": "fer_lightning.models.small_resnet.SmallResNet",
        "widths": [8],
        "depths": [1],
        "stem_stride": 2,
    }
    torch.manual_seed(0)
    network = build_network({**model, "image_size": 64, "channels": 3, "mean": 0.4, "std": 0.2}, 3).eval()
    graphs.write_onnx(network, tmp_path / "model.onnx", channels=1, size=48)
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for batch in (1, 3):
        faces = torch.rand(batch, 1, 48, 48)
        with torch.no_grad():
            expected = network(faces).numpy()
        np.testing.assert_allclose(session.run(None, {"image": faces.numpy()})[0], expected, atol=1e-4)


@pytest.mark.parametrize("calibration", graphs.CALIBRATIONS)
def test_every_calibration_gives_similar_logits(small_network, small_bundle, tmp_path, calibration: str) -> None:
    faces = np.random.default_rng(0).random((32, 1, 48, 48), dtype=np.float32)
    graphs.write_int8(small_bundle / "model.onnx", tmp_path / "int8.onnx", faces, calibration)
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx")
    logits = session.run(None, {"image": faces})[0]
    expected = graphs.torch_runner(small_network)(faces)
    assert np.corrcoef(logits.flatten(), expected.flatten())[0, 1] > 0.98
    assert session.get_outputs()[0].shape[1:] == [len(EMOTIONS)]


def test_an_onnx_runner_gives_the_logits_of_the_predictor(small_network, small_bundle: Path) -> None:
    faces = np.random.default_rng(0).random((5, 1, 48, 48), dtype=np.float32)
    logits = graphs.onnx_runner(small_bundle / "model.onnx", threads=1)(faces)
    np.testing.assert_array_equal(logits, FERPredictor.load(small_bundle, threads=1).logits(faces))
    np.testing.assert_allclose(logits, graphs.torch_runner(small_network)(faces), atol=1e-4)


def test_torch_export_gives_the_same_logits(small_network, tmp_path: Path) -> None:
    graphs.write_torch_export(small_network, tmp_path / "model.pt2", channels=1, size=48)
    faces = np.random.default_rng(0).random((5, 1, 48, 48), dtype=np.float32)
    logits = graphs.torch_export_runner(tmp_path / "model.pt2")(faces)
    np.testing.assert_allclose(logits, graphs.torch_runner(small_network)(faces), atol=1e-5)


@pytest.mark.skipif(find_spec("executorch") is None, reason="needs ExecuTorch: pip install executorch")
@pytest.mark.parametrize("int8", [False, True])
def test_executorch_gives_the_same_logits(tmp_path: Path, int8: bool) -> None:
    torch.manual_seed(0)
    network = copy_for_export(build_network({**ONE_BLOCK, "image_size": 48, "channels": 1}, 3))
    faces = np.random.default_rng(0).random((16, 1, 48, 48), dtype=np.float32)
    path = tmp_path / "model.pte"
    graphs.write_executorch(network, path, 1, 48, faces if int8 else None)
    logits = graphs.executorch_runner(path)(faces)
    expected = graphs.torch_runner(network)(faces)
    if int8:
        assert np.corrcoef(logits.flatten(), expected.flatten())[0, 1] > 0.98
    else:
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_an_mlflow_model_gives_the_same_predictions(small_bundle: Path, tmp_path: Path, monkeypatch) -> None:
    import mlflow
    from mlflow.pyfunc.scoring_server import _split_data_and_params, infer_and_parse_data

    bundle = Bundle.load(small_bundle)
    store = {
        "_target_": "fer_lightning.reporting.tracking.mlflow",
        "uri": None,
        "local_dir": str(tmp_path / "mlruns"),
        "experiment_name": "bundles",
        "timeout": 5,
    }
    monkeypatch.chdir(tmp_path)
    previous = mlflow.get_tracking_uri()
    try:
        uri, _ = mlflow_run.log_model(bundle, store)
        model = mlflow.pyfunc.load_model(uri)
        [run] = mlflow.search_runs(experiment_names=["bundles"], output_format="list")
    finally:
        mlflow.set_tracking_uri(previous)
    assert run.data.metrics == {"test/accuracy": 0.5}
    assert run.data.tags["data"] == "fer2013"
    assert run.info.status == "FINISHED"
    image = b"P5 48 48 255\n" + bytes(range(48)) * 48
    predictions = model.predict(pd.DataFrame({"image": [image, image]}))
    [expected] = FERPredictor(bundle).predict(image)
    assert predictions["label"].tolist() == [expected.label] * 2
    np.testing.assert_allclose(predictions[[f"p_{name}" for name in EMOTIONS]].iloc[0], probabilities_of(expected))
    # as `mlflow models serve` parses a request
    request = json.dumps({"dataframe_records": [{"image": base64.b64encode(image).decode()}]})
    data, _ = _split_data_and_params(request)
    parsed = infer_and_parse_data(data, model.metadata.get_input_schema())
    pd.testing.assert_frame_equal(model.predict(parsed), predictions.iloc[:1])


def test_mlflow_models_need_mlflow_tracking(small_bundle: Path) -> None:
    with pytest.raises(ValueError, match="needs tracking=mlflow"):
        mlflow_run.log_model(Bundle.load(small_bundle), {"_target_": "fer_lightning.reporting.tracking.no_tracking"})


def test_onnx_predicts_like_pytorch_on_real_faces(real_data: Path, small_bundle: Path, small_network) -> None:
    """Probabilities for 1,000 faces of FER2013 are within 1e-5 of PyTorch."""
    import zipfile

    with zipfile.ZipFile(real_data / "fer2013-kaggle.zip") as archive:
        names = sorted(name for name in archive.namelist() if "PrivateTest" in name)[::3][:1000]
        images = [archive.read(name) for name in names]
    predictor = FERPredictor.load(small_bundle)
    faces = np.stack([predictor.prepare(image) for image in images])
    with torch.no_grad():
        expected = small_network(torch.from_numpy(faces)).double().softmax(dim=1).numpy()
    predictions = predictor.predict(images)
    assert len(predictions) == 1000
    probabilities = np.array([probabilities_of(prediction) for prediction in predictions])
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert (probabilities.argmax(axis=1) == expected.argmax(axis=1)).all()


@pytest.mark.parametrize(("scores", "chosen"), [([0.2, 0.9], 1), ([0.5, 0.4], 0), ([0.1, 0.2], 1)])
def test_the_calibration_with_the_least_loss_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: list[float], chosen: int
) -> None:
    """The first with a small enough loss, else the best; the float graph has an accuracy of 90%."""
    names, written = list(graphs.CALIBRATIONS)[:2], []
    monkeypatch.setattr(graphs, "CALIBRATIONS", names)
    monkeypatch.setattr(graphs, "write_int8", lambda source, target, faces, name: written.append(name))
    accuracies = {"model.onnx": 0.9}

    def onnx_runner(path: Path, threads: int | None = None) -> graphs.Runner:
        value = accuracies.get(path.name) or scores[names.index(written[-1])]
        return lambda faces: np.eye(2, dtype=np.float32)[(np.arange(len(faces)) >= 10 * value).astype(int)]

    monkeypatch.setattr(graphs, "onnx_runner", onnx_runner)
    val = LabelledFaces(np.arange(10), np.zeros((10, 1, 24, 24), np.float32), np.zeros(10, np.int64))
    faces = ExportFaces(val, val, val.faces, val.faces)
    best = build._write_best_int8(tmp_path / "model.onnx", tmp_path / "model_int8.onnx", faces)
    assert best == written[-1] == names[chosen]


def test_a_network_trained_under_a_leaky_protocol_is_not_exported(run: Path, tmp_path: Path, capsys) -> None:
    with edited_checkpoint(run / "checkpoints" / "best.ckpt", tmp_path / "leaky.ckpt") as content:
        content["hyper_parameters"]["provenance"]["protocol"] = "leaky_all(copies=1)"
    out = tmp_path / "bundle"
    assert entry.main(["export", f"checkpoint={tmp_path}/leaky.ckpt", f"out={out}"]) == 2
    assert "was trained under leaky_all(copies=1), which leaks" in capsys.readouterr().err
    assert not out.exists()


def test_export_checks_that_neither_part_was_trained_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(trained.TrainedRun, "check_not_trained_on", lambda self, part: asked.append(part))
    source = ExportSource.load(run, [])
    assert asked == ["val", "test"]
    small, large = ([SimpleNamespace(graph=size)] for size in ((24, 1), (48, 3)))
    monkeypatch.setattr(
        sources, "training_input_size", lambda network, shape: network.graph if shape == [24, 24] else 0
    )
    nets = [
        SimpleNamespace(
            module=SimpleNamespace(network_for_whole_images=partial(lambda same: same, net)),
            provenance={"image_shape": [24, 24]},
            faces=SimpleNamespace(images=np.zeros((1, 96, 96))),  # of another data set
        )
        for net in (*small, *large, *small)
    ]
    assert dataclasses.replace(source, nets=nets).graph_input() == (48, 3)
