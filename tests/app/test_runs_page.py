"""The page of results."""

import json
import os
import shutil
from pathlib import Path

from helpers.app_pages import open_app, open_results, texts
from PIL import Image

from fer_lightning.app.cards import escaped


def test_the_results_page_shows_measured_systems_and_runs(run_with_checkpoint: Path) -> None:
    Image.new("RGB", (40, 30)).save(run_with_checkpoint / "confusion_matrix.png")
    app = open_results()
    published, own = (frame.value for frame in app.dataframe)
    assert "custom_cnn" in published["experiment"].tolist()
    assert own.loc[0, ["Run", "Test accuracy"]].tolist() == ["small seed=0", 0.625]
    assert [tab.label for tab in app.tabs] == ["Confusion matrix"]
    assert not app.code
    app.selectbox[0].select("custom_cnn, seed 0").run()
    assert app.code[0].value == "python train.py experiment=custom_cnn paths.results_dir=results"
    assert len(app.get("image")) == 2  # the run's and the system's confusion matrix


def test_every_run_can_be_selected(run_with_checkpoint: Path) -> None:
    other = run_with_checkpoint.parents[1] / "yesterday" / run_with_checkpoint.name
    shutil.copytree(run_with_checkpoint, other)
    os.utime(other / "record.json", (0, 0))
    app = open_results()
    [report] = [box for box in app.selectbox if box.label == "Report of"]
    labels = [f"small seed=0, {day}/{other.name}" for day in ("today", "yesterday")]
    assert report.options == labels
    report.select(labels[1]).run()
    assert escaped(f"outputs/yesterday/{other.name}, ") in texts(app.caption)


def test_text_of_records_is_not_rendered_as_markdown(run_with_checkpoint: Path) -> None:
    path = run_with_checkpoint / "record.json"
    image = "![](https://example.org/seen)"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": image, "command": image}))
    for app in (open_app(), open_results()):
        assert "example" in texts(app.caption)
        assert image not in texts(app.caption)


def test_a_folder_without_runs_is_not_an_error() -> None:
    app = open_results()
    assert "no finished run" in texts(app.info)
