import io

import numpy as np
import pytest
from rich.console import Console

from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.protocols.split import Split
from fer_lightning.labels import EMOTIONS
from fer_lightning.reporting import tables


def printed(width=80, tty=False, encoding="utf-8"):
    """A console and a function that tells what it has printed."""
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding=encoding), width=width, force_terminal=tty)

    def text():
        console.file.flush()
        return raw.getvalue().decode(encoding)

    return console, text


def faces(name="fer2013"):
    labels = np.array([0, 0, 1, 3, 3, 3, 6, 6])
    return FaceArrays(
        images=np.zeros((8, 48, 48), np.uint8),
        labels=labels,
        usage=np.array(["Training"] * 8),
        classes=EMOTIONS,
        name=name,
        fingerprint="0123456789abcdef" * 4,
        names=np.array([b"row"] * 8),
    )


def header(console, data):
    tables.run_header(
        console,
        faces=data,
        split=Split("official", {"train": np.arange(6), "val": np.array([6]), "test": np.array([7])}),
        model="custom_cnn",
        parameters=1_234_567,
        device="cpu",
        precision="bf16-mixed",
        folder="outputs/2025-01-01/12-00-00_custom_cnn",
    )


def scores(n=3589, accuracy=0.6512):
    return {
        "n": n,
        "accuracy": accuracy,
        "accuracy_interval": [0.635, 0.667],
        "macro_f1": 0.6312,
        "macro_f1_interval": [0.611, 0.649],
        "balanced_accuracy": 0.6253,
        "ece": 0.0432,
        "top2_accuracy": 0.8234,
        "loss": 1.0123,
        "per_class": {
            name: {"precision": 0.5 + i / 100, "recall": 0.7, "f1": 0.65, "support": 1000 + i}
            for i, name in enumerate(EMOTIONS)
        },
    }


def test_header_names_what_is_trained_on_what():
    console, text = printed()
    header(console, faces())
    for fact in (
        "fer2013, 48x48 gray, 0123456789ab",
        "official",
        "train 6, val 1, test 1",
        "angry 2, disgust 1, fear 0, happy 3",
        "custom_cnn, 1,234,567 parameters",
        "cpu, bf16-mixed",
        "outputs/2025-01-01/12-00-00_custom_cnn",
    ):
        assert fact in text()
    assert "SYNTHETIC" not in text()


def test_header_says_loudly_that_faces_are_synthetic():
    console, text = printed(tty=True)
    header(console, faces("synthetic"))
    assert "SYNTHETIC FACES drawn by the program" in text()
    assert "these numbers say nothing about real faces" in text()
    assert "\x1b[1;33m" in text()  # bold yellow


def test_summary_and_classes_are_readable():
    console, text = printed()
    console.print(tables.scores_table({"test": scores(), "test_deduplicated": scores(3500, 0.6498)}, EMOTIONS))
    rows = [" ".join(line.split()) for line in text().splitlines()]
    for row in (
        "test test_deduplicated",
        "pictures 3,589 3,500",
        "accuracy 65.12% 64.98%",
        "95% interval 63.5% to 66.7% 63.5% to 66.7%",
        "macro F1 63.12% 63.12%",
        "95% interval 61.1% to 64.9% 61.1% to 64.9%",
        "balanced accuracy 62.53% 62.53%",
        "top-2 accuracy 82.34% 82.34%",
        "calibration error 4.32% 4.32%",
        "cross entropy 1.012 1.012",
        "precision recall F1 pictures",
        "happy 53.0% 70.0% 65.0% 1,003",
    ):
        assert row in rows


@pytest.mark.parametrize("width", [80, 200])
def test_nothing_is_wider_than_the_terminal_or_cut(width):
    console, text = printed(width)
    header(console, faces("synthetic"))
    console.print(tables.scores_table({"test": scores(), "test_deduplicated": scores()}, EMOTIONS))
    assert max(len(line) for line in text().splitlines()) <= width
    assert "\u2026" not in text()


def test_plain_text_without_a_terminal_and_ascii_where_nothing_else_goes():
    console, text = printed(encoding="ascii")
    header(console, faces("synthetic"))
    console.print(tables.scores_table({"test": scores()}, EMOTIONS))
    assert "\x1b" not in text()
    assert "SYNTHETIC" in text()


def test_square_brackets_in_names_are_shown_as_they_are():
    console, text = printed()
    table = {"test [/x]": scores() | {"per_class": {"[red]a": scores()["per_class"]["sad"]}}}
    console.print(tables.scores_table(table, ["[red]a"]))
    assert "test [/x]" in text()
    assert "[red]a" in text()


def test_results_name_the_files_that_are_there_and_what_opens_the_run(tmp_path):
    (tmp_path / "record.json").write_text("{}")
    console, text = printed()
    tables.results_files(console, tmp_path, "mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///mlruns/mlflow.db")
    assert str(tmp_path) in text()
    assert "record.json" in text()
    assert "best.ckpt" not in text()
    assert "mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///mlruns/mlflow.db\n" in text()


def test_results_without_mlflow_name_none(tmp_path):
    console, text = printed()
    tables.results_files(console, tmp_path)
    assert "Compare runs" not in text()


def test_each_number_stands_in_its_row_and_the_classes_are_those_of_the_whole_part() -> None:
    part, rest = scores(), scores(n=3275, accuracy=0.62)
    rest["per_class"] = {name: row | {"support": 9} for name, row in rest["per_class"].items()}
    console, text = printed(width=120)
    console.print(tables.scores_table({"test": part, "test_deduplicated": rest}, EMOTIONS))
    shown = {name: next(line for line in text().splitlines() if line.strip().startswith(name)) for name in (
        "accuracy", "macro F1", "balanced accuracy", "top-2 accuracy", "calibration error", "cross entropy", "angry",
    )}  # fmt: skip
    assert shown["accuracy"].split()[-2:] == ["65.12%", "62.00%"]
    assert shown["macro F1"].split()[-2:] == ["63.12%"] * 2
    assert shown["balanced accuracy"].split()[-1] == "62.53%"
    assert shown["top-2 accuracy"].split()[-1] == "82.34%"
    assert shown["calibration error"].split()[-1] == "4.32%"
    assert shown["cross entropy"].split()[-1] == "1.012"
    assert shown["angry"].split()[-1] == "1,000"
