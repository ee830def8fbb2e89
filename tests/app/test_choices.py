"""The models that the app offers."""

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from helpers.bundles import describe

from fer_lightning import __main__ as entry
from fer_lightning.app import choices
from fer_lightning.config import ROOT
from fer_lightning.labels import EMOTIONS


def test_runs_with_the_same_name_and_score_have_different_labels(run_with_checkpoint: Path) -> None:
    shutil.copytree(run_with_checkpoint, run_with_checkpoint.with_name("10-00-01_again"))
    labels = [choice.label for choice in choices.available_choices()[0]]
    assert sorted(labels) == [
        f"Run: small seed=0 (62.5%), outputs/today/{folder}"
        for folder in sorted(["10-00-01_again", run_with_checkpoint.name])
    ]


def test_the_requested_model_is_listed_first(run_with_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = run_with_checkpoint.with_name("09-00-00_older")
    shutil.copytree(run_with_checkpoint, again)
    monkeypatch.setenv("FER_APP_MODEL", str(again.absolute()))
    found, _ = choices.available_choices()
    assert len(found) == 2
    assert found[0].label == f"Run: small seed=0 (62.5%), outputs/today/{again.name}"


def test_the_score_of_the_best_epoch_is_not_shown_for_the_last(run_with_checkpoint: Path, monkeypatch) -> None:
    last = run_with_checkpoint / "checkpoints" / "last.ckpt"
    shutil.copy(last.with_name("best.ckpt"), last)
    monkeypatch.setenv("FER_APP_MODEL", str(last))
    found, _ = choices.available_choices()
    assert [choice.label for choice in found] == ["Run: small seed=0, last.ckpt", "Run: small seed=0 (62.5%)"]
    assert found[0].about == "Trained on fer2013, protocol official."


@pytest.mark.parametrize("test", [{"n": 5}, {"accuracy": "high"}, {"accuracy": 0.5, "accuracy_interval": [0.4]}])
def test_a_bundle_with_invalid_scores_is_skipped(small_bundle: Path, test, capsys) -> None:
    folder = Path("outputs", "bundle")
    shutil.copytree(small_bundle, folder)
    describe(folder, scores={"test": test})
    assert choices.available_choices() == ([], [])
    assert entry.main(["app", "--model", str(folder)]) == 2
    assert f"{folder}: bundle.json has invalid scores; export the model again" in capsys.readouterr().err


def test_models_are_found_by_bundle_run_folder_and_checkpoint(run_with_checkpoint: Path, small_bundle: Path) -> None:
    checkpoint = run_with_checkpoint / "checkpoints" / "best.ckpt"
    for path in (checkpoint, run_with_checkpoint, Path("outputs")):
        [choice] = choices.choices_from(str(path))
        assert (choice.kind, Path(choice.location).resolve()) == ("checkpoint", checkpoint)
    [choice] = choices.choices_from(str(small_bundle))
    assert choice.kind == "bundle"


def test_mlflow_s_runs_are_listed_once_and_downloaded_when_selected(
    run_with_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(number: int, name: str, files: list[str]):
        info = types.SimpleNamespace(run_id=f"id{number}", run_name=name)
        data = types.SimpleNamespace(
            tags={"data": "fer2013", "synthetic": "false"}, metrics={"test/accuracy": 0.625}, files=files
        )
        return types.SimpleNamespace(info=info, data=data)

    best = ["checkpoints/best.ckpt"]
    (run_with_checkpoint / ".mlflow_run_id").write_text("id1")
    stored = [run(1, "small seed=0", best), run(2, "only there", best), run(3, "parent", [])]
    downloaded: list[str] = []

    class Client:
        def search_experiments(self):
            return [types.SimpleNamespace(experiment_id="0")]

        def search_runs(self, *_, **__):
            return stored

        def list_artifacts(self, run_id: str, _: str):
            files = next(run.data.files for run in stored if run.info.run_id == run_id)
            return [types.SimpleNamespace(path=file) for file in files]

        def download_artifacts(self, run_id: str, path: str) -> str:
            downloaded.append(run_id)
            return str(run_with_checkpoint / path)

    monkeypatch.setattr(choices, "_client", Client)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere")
    found, problems = choices.available_choices()
    assert [choice.label for choice in found] == ["Run: small seed=0 (62.5%)", "MLflow: only there (62.5%)"]
    assert problems == downloaded == []
    assert found[1].load().predict([np.zeros((48, 48), np.uint8)])[0].label in EMOTIONS
    assert downloaded == ["id2"]


def test_a_store_that_cannot_be_read_is_reported(run_with_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere")
    monkeypatch.setattr(choices, "_client", Mock(side_effect=OSError("no connection")))
    found, problems = choices.available_choices()
    assert [choice.label for choice in found] == ["Run: small seed=0 (62.5%)"]
    assert problems == ["MLflow's runs are not listed: no connection"]


@pytest.mark.parametrize(("set_by_user", "seconds"), [(None, "10"), ("5", "5")])
def test_mlflow_requests_of_a_page_have_a_short_timeout(set_by_user: str | None, seconds: str) -> None:
    """10 seconds (30 in training) unless set by the user; the local store is the default."""
    code = (
        "import os, sys, types\n"
        "sys.modules['mlflow'] = types.SimpleNamespace(MlflowClient=str)\n"
        "from fer_lightning.app import choices\n"
        "print(choices._client(), os.environ['MLFLOW_HTTP_REQUEST_TIMEOUT'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"MLFLOW_HTTP_REQUEST_TIMEOUT": set_by_user} if set_by_user else {})
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sqlite:///mlruns/mlflow.db", seconds]
