"""`python -m fer_lightning predict`."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.images import UNREADABLE, encoded, noise
from helpers.predictions import probabilities_of
from helpers.processes import run_python
from PIL import Image

from fer_lightning import __main__ as entry
from fer_lightning.config import ROOT
from fer_lightning.inference.images import read_image
from fer_lightning.labels import EMOTIONS


@pytest.fixture
def folder(tmp_path: Path, gray: np.ndarray) -> Path:
    """A folder of images and other files."""
    images = tmp_path / "images"
    (images / "deeper").mkdir(parents=True)
    (images / "a.png").write_bytes(encoded(gray))
    (images / "deeper" / "b.jpg").write_bytes(encoded(noise(64, 64, 3), "JPEG"))
    (images / "notes.txt").write_text("not an image")
    (images / ".hidden.png").write_bytes(b"")
    return images


def predict(*arguments: object) -> int:
    return entry.main(["predict", *map(str, arguments)])


def test_a_folder_as_csv(small_bundle, predictor, folder, capfd) -> None:
    assert predict(folder, "--whole", "--model", small_bundle) == 0
    shown = capfd.readouterr()
    rows = pd.read_csv(io.StringIO(shown.out))
    assert rows["image"].tolist() == [str(folder / "a.png"), str(folder / "deeper" / "b.jpg")]
    predictions = predictor.predict([folder / "a.png", folder / "deeper" / "b.jpg"])
    assert rows["label"].tolist() == [prediction.label for prediction in predictions]
    np.testing.assert_allclose(
        rows[[f"p_{name}" for name in EMOTIONS]], [probabilities_of(prediction) for prediction in predictions]
    )
    assert shown.err == ""


@pytest.mark.parametrize("form", ["jsonl", "text"])
def test_rows_go_to_stdout_and_the_progress_bar_to_the_terminal(small_bundle, folder, tmp_path, form: str) -> None:
    terminal, of_child = os.openpty()
    command = [sys.executable, "-m", "fer_lightning", "predict", folder, "--whole", "--model", small_bundle]
    with (tmp_path / "rows").open("wb") as rows:
        done = subprocess.run([*command, "--format", form], stdout=rows, stderr=of_child, cwd=ROOT)
    os.close(of_child)
    os.close(terminal)
    assert done.returncode == 0
    assert len((tmp_path / "rows").read_text().splitlines()) == 2


def test_each_unreadable_image_is_one_line_and_the_others_are_processed(small_bundle, folder, capfd) -> None:
    for name, (content, _) in UNREADABLE.items():
        (folder / name).write_bytes(content)
    nowhere = folder / "nowhere.jpg"
    assert predict(folder, nowhere, "--whole", "--model", small_bundle, "--format", "jsonl") == 1
    shown = capfd.readouterr()
    assert len([json.loads(line) for line in shown.out.splitlines()]) == 2
    lines = shown.err.splitlines()
    assert len(lines) == len(UNREADABLE) + 1
    for name, (_, message) in UNREADABLE.items():
        assert any(f"{name}: " in line and message in line for line in lines), name
    assert f"fer predict: {nowhere}: there is no such file" in lines


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_results_are_written_to_a_file(small_bundle, folder, capfd, suffix: str) -> None:
    out = folder.parent / "new" / f"results.{suffix}"
    assert predict(folder, "--whole", "--model", small_bundle, "--out", out) == 0
    readers = {
        "csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet,
        "jsonl": lambda path: pd.read_json(path, lines=True),
    }  # fmt: skip
    table = readers[suffix](out)
    assert list(table.columns[:4]) == ["image", "seconds", "face", "x"]
    assert table["face"].tolist() == [1, 1]
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert capfd.readouterr().out == ""


def test_an_image_is_read_from_stdin(small_bundle, predictor, gray) -> None:
    command = [sys.executable, "-m", "fer_lightning", "predict", "-", "--whole", "--model", str(small_bundle)]
    done = subprocess.run(
        [*command, "--format", "text"], input=encoded(gray), capture_output=True, cwd=ROOT, check=True
    )
    [prediction] = predictor.predict(gray)
    assert done.stdout.decode().startswith(f"-  face 1  {prediction.label} {prediction.confidence:.0%}  ")
    bad = subprocess.run(command, input=b"", capture_output=True, cwd=ROOT)
    assert (bad.returncode, bad.stderr) == (1, b"fer predict: -: the file is empty\n")


def test_a_closed_pipe_is_not_an_error(small_bundle, folder) -> None:
    for number in range(300):
        (folder / f"{number}.png").write_bytes((folder / "a.png").read_bytes())
    command = f"{sys.executable} -m fer_lightning predict {folder} --whole --model {small_bundle} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, cwd=ROOT, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("image,")


def test_annotated_images_keep_their_relative_paths(small_bundle, folder, gray) -> None:
    (folder / "a.jpg").write_bytes(encoded(noise(64, 64, 3), "JPEG"))
    notes = folder / "annotated"
    for _ in range(2):  # earlier annotated images are not read
        assert predict(folder, "--whole", "--model", small_bundle, "--annotate", notes) == 0
        made = sorted(str(path.relative_to(notes)) for path in notes.rglob("*.png"))
        assert made == ["images/a_faces.png", "images/a_faces_2.png", "images/deeper/b_faces.png"]
    drawn = np.asarray(Image.open(notes / "images" / "a_faces_2.png"))
    assert (drawn == (255, 212, 0)).all(axis=2).any()
    np.testing.assert_array_equal(read_image(folder / "a.png"), gray)


def test_unreadable_videos_and_empty_folders_are_reported(small_bundle, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty").mkdir()
    command = ["-m", "fer_lightning", "predict", "--whole", "--model", str(small_bundle)]
    inputs = [str(tmp_path / name) for name in ("text.mp4", "no.mp4", "empty")]
    done = run_python(*command, *inputs, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"fer predict: {tmp_path}/empty: contains no image or video",
        f"fer predict: {tmp_path}/text.mp4: it is not a video that OpenCV can read",
        f"fer predict: {tmp_path}/no.mp4: there is no such file",
    ]


def test_an_image_without_a_face_gets_a_row_without_a_label(small_bundle, tmp_path: Path, capfd) -> None:
    (tmp_path / "sky.png").write_bytes(encoded(np.full((200, 200), 200, np.uint8)))
    assert predict(tmp_path / "sky.png", "--model", small_bundle) == 0
    shown = capfd.readouterr()
    assert shown.err == f"fer predict: {tmp_path}/sky.png: no face found\n"
    [row] = pd.read_csv(io.StringIO(shown.out)).to_dict("records")
    assert row["image"] == f"{tmp_path}/sky.png"
    assert pd.isna(row["label"])
    assert pd.isna(row["face"])


def test_the_model_of_the_detector_can_be_given(small_bundle, folder, monkeypatch, capfd) -> None:
    given = []

    def made(name: str, **options: object):
        given.append((name, options))
        return lambda image: []

    monkeypatch.setattr("fer_lightning.inference.detect.detector", made)
    arguments = ["--detector", "mediapipe", "--detector_model", "net.tflite"]
    assert predict(folder / "a.png", *arguments, "--model", small_bundle) == 0
    assert given == [("mediapipe", {"model": Path("net.tflite")})]
    assert "no face found" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png", "--model", "nobody"], "no model 'nobody'"),
        (["x.png", "--out", "results.txt"], "must end in .csv"),
        (["x.png", "--fps", "0"], "above 0"),
        (["clip.mp4", "--fps", "inf"], "must be a number above 0"),
        (["photos", "--annotate", "photos/"], "is also an input"),
        (["x.png", "--detector", "eyes"], "invalid choice: 'eyes'"),
        (["x.png", "--whole", "--detect"], "not allowed with"),
        (["x.png", "--detector_model", "net.tflite"], "--detector_model needs --detector mediapipe"),
        ([], "required"),
    ],
)
def test_usage_errors_exit_with_status_2(arguments: list[str], message: str, capfd) -> None:
    with pytest.raises(SystemExit) as ended:
        sys.exit(predict(*arguments))
    assert ended.value.code == 2
    shown = capfd.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
