import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, draw_faces_once

from fer_lightning import __main__ as entry
from fer_lightning.config import check
from fer_lightning.data.sources import synthetic
from fer_lightning.reporting import figures
from fer_lightning.studies import trained
from fer_lightning.studies.ensemble import command, recipe
from fer_lightning.studies.ensemble.command import Member
from fer_lightning.studies.ensemble.recipe import Recipe
from fer_lightning.training.metrics import Predictions

RECIPES = sorted(path.stem for path in (ROOT / "conf" / "ensemble").glob("*.yaml"))


@pytest.fixture
def runs(tiny_runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The tiny runs, in a folder of their own that is also where things are written to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(synthetic, "draw_faces", draw_faces_once)
    for run in tiny_runs:
        shutil.copytree(run, Path("runs") / run.name)
    return [Path("runs") / run.name for run in tiny_runs]


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without their pictures, which take longest."""
    monkeypatch.setattr(figures, "save", lambda figure, path: path)


def listed(runs: list[Path]) -> str:
    return f"members=[{','.join(map(str, runs))}]"


def record(name: str) -> dict:
    return json.loads((Path("outputs") / "ensembles" / name / "record.json").read_text())


def test_an_ensemble_is_the_mean_of_its_members(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["ensemble", listed(runs), "publish=three"]) == 0
    voted = pd.read_parquet("outputs/ensembles/three/predictions.parquet")
    members = [pd.read_parquet(run / "predictions.parquet") for run in runs]
    for column in ("p_happy", "p_neutral"):
        mean = np.mean([table[column] for table in members], axis=0)
        np.testing.assert_allclose(voted[column], mean, atol=1e-5)
    written = record("three")
    before = [json.loads((run / "record.json").read_text()) for run in runs]
    for member, run in zip(written["members"], before, strict=True):
        assert member["test"]["accuracy"] == run["test"]["accuracy"]
        assert member["val"]["accuracy"] == pytest.approx(run["val"]["accuracy"])
        assert member["weight"] == pytest.approx(1 / 3)
    assert [member["views"] for member in written["members"]] == ["identity", "identity", "flip"]
    assert written["test"]["accuracy"] == pytest.approx(voted["correct"].mean())
    assert written["params"] == sum(run["params"] for run in before)
    assert written["minutes"] == pytest.approx(sum(run["minutes"] for run in before), abs=0.01)
    assert json.loads(Path("results/three_seed0.json").read_text()) == written
    assert written["kaggle_test"]["n"] == written["test"]["n"] + len(voted)  # the two parts are of one size here
    for key in ("seed", "test_deduplicated", "command", "machine", "commit", "versions", "data", "protocol"):
        assert key in written
    for name in ("report.md", "members.png", "reliability_diagram.png", "confusion_matrix.png"):
        assert (Path("outputs/ensembles/three") / name).stat().st_size > 0
    assert "flatters" not in Path("outputs/ensembles/three/report.md").read_text()
    shown = capsys.readouterr().out
    assert "McNemar" in shown
    assert "3 of 3 nets vote" in " ".join(shown.split())
    assert entry.main(["compare", "outputs/ensembles/three", str(runs[0])]) == 0


@pytest.mark.usefixtures("_no_pictures")
def test_patterns_checkpoints_and_other_views(runs: list[Path]) -> None:
    words = ["ensemble", f"members=[runs/*e*,{runs[0]}/checkpoints/last.ckpt]", "eval=flip", "publish=two"]
    assert entry.main(words) == 0
    members = record("two")["members"]
    assert [Path(m["checkpoint"]).parts[1:] for m in members] == [
        ("flipped", "checkpoints", "best.ckpt"),
        ("other_seed", "checkpoints", "best.ckpt"),
        ("small", "checkpoints", "last.ckpt"),
    ]
    assert {m["views"] for m in members} == {"flip"}


def test_no_net_votes_twice(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    again = f"{runs[0].absolute()}/checkpoints/best.ckpt"
    assert command.members_of(f"[{runs[0]},{runs[1]},{again}]") == [runs[0], runs[1]]
    assert entry.main(["ensemble", f"members=[{runs[0]},{again}]"]) == 2
    assert f"members names {runs[0]} more than once" in capsys.readouterr().err


def test_a_pattern_may_end_in_a_class_of_characters(runs: list[Path]) -> None:
    assert command.members_of(f"{runs[0].parent}/smal[kl]") == [runs[0]]


@pytest.mark.usefixtures("_no_pictures")
def test_what_another_command_published_is_not_overwritten(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ensemble", listed(runs[:2]), "publish=both"]
    for _ in range(2):
        assert entry.main(words) == 0
    assert entry.main([*words, "choose=greedy"]) == 2
    assert "results/both_seed0.json holds what `python -m fer_lightning ensemble" in capsys.readouterr().err


@pytest.mark.usefixtures("_no_pictures")
def test_a_net_is_asked_once(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert entry.main(["ensemble", listed(runs[1:2]), "publish=first"]) == 0
    asked: list[str] = []
    predict = trained.Trained.predict
    monkeypatch.setattr(trained.Trained, "predict", lambda self, part: (asked.append(part), predict(self, part))[1])
    assert entry.main(["ensemble", listed(runs[1:2]), "publish=again"]) == 0
    assert asked == []
    assert record("again")["test"] == record("first")["test"]
    assert entry.main(["ensemble", listed(runs[1:2]), "eval=flip", "publish=flipped"]) == 0
    assert asked == ["val", "test"]
    asked.clear()
    shutil.copy(runs[2] / "checkpoints/best.ckpt", runs[1] / "checkpoints/best.ckpt")  # another net of that name
    assert entry.main(["ensemble", listed(runs[1:2]), "eval=plain", "publish=replaced"]) == 0
    assert asked == ["val", "test"]


@pytest.mark.usefixtures("_no_pictures")
def test_the_test_part_has_no_say(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    how = ["weights=fitted", "choose=greedy"]
    assert entry.main(["ensemble", listed(runs), *how, "publish=before"]) == 0
    prepare = trained.prepare_data

    def with_shuffled_test_labels(config):
        datamodule = prepare(config)
        labels, test = np.array(datamodule.faces.labels), datamodule.split.indices["test"]
        labels[test] = np.random.default_rng(0).permutation(labels[test])
        datamodule.faces = dataclasses.replace(datamodule.faces, labels=labels)
        return datamodule

    monkeypatch.setattr(trained, "prepare_data", with_shuffled_test_labels)
    assert entry.main(["ensemble", listed(runs), *how, "publish=after"]) == 0
    before, after = record("before"), record("after")
    assert after["test"] != before["test"]
    assert after["val"] == before["val"]
    assert after["calibration"]["temperature"] == before["calibration"]["temperature"]
    assert after["best_member"] == before["best_member"]
    assert [m["weight"] for m in after["members"]] == [m["weight"] for m in before["members"]]
    said = [pd.read_parquet(f"outputs/ensembles/{name}/predictions.parquet") for name in ("before", "after")]
    assert said[0]["p_happy"].equals(said[1]["p_happy"])
    assert "flatters" in Path("outputs/ensembles/before/report.md").read_text()


def test_members_must_be_alike(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = runs[1] / "checkpoints" / "best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["provenance"]["protocol"] = "kaggle"
    torch.save(content, checkpoint)
    assert entry.main(["ensemble", listed(runs)]) == 2
    said = capsys.readouterr().err
    assert "small" in said
    assert "under the protocol official" in said
    assert "under the protocol kaggle" in said


def test_members_vote_on_the_data_they_were_trained_on(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["ensemble", listed(runs), "data.count=220"]) == 2
    assert "was trained on synthetic" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["members=[nowhere]"], "nowhere"),
        (["members=[no*]"], "no run or checkpoint matches no*"),
        (["members=[]"], "members names no run"),
        (["weights=fitted"], "members="),
        (["members=[runs/small]", "weights=best"], "'fitted'"),
        (["members=[runs/small]", "choose=best"], "'greedy'"),
        (["recipe=nothing"], "khanzada7"),
        (["recipe=khanzada7"], "7 of the 7 members"),
    ],
)
def test_wrong_use_is_said_in_a_sentence(
    runs: list[Path], words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["ensemble", *words]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_compose_and_say_where_they_come_from(composed, name: str) -> None:
    text = (ROOT / "conf" / "ensemble" / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert re.search(r"^# (Claim|Aim) {2,}", text, flags=re.MULTILINE)
    read = Recipe.named(name)
    assert len(read.members) > 1
    assert read.weights in ("equal", "fitted")
    assert read.choose in ("all", "greedy")
    for words in read.members.values():
        check(config := composed(*words))
        on_fer_plus = config.protocol["_target_"].endswith(".fer_plus")
        assert bool(config.data.votes_path) == on_fer_plus


@pytest.mark.usefixtures("_no_pictures")
def test_a_recipe_takes_the_runs_of_its_members(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("conf/ensemble").mkdir(parents=True)
    Path("conf/ensemble/both.yaml").write_text(
        "# both\nmembers: {small: [model=sequential_cnn], other_seed: [seed=1]}\nweights: fitted\nchoose: all\n"
    )
    monkeypatch.setattr(recipe, "CONF", Path("conf"))
    monkeypatch.setattr(recipe, "RUNS", Path("runs"))
    assert entry.main(["ensemble", "recipe=both"]) == 0
    assert [Path(m["run"]).name for m in record("both")["members"]] == ["small", "other_seed"]
    (runs[1] / "record.json").unlink()
    Path("conf/ensemble/mine.yaml").write_text("# mine\nmembers: {small: [model=sequential_cnn]}\n")
    assert (Recipe.named("mine").weights, Recipe.named("mine").choose) == ("equal", "all")
    Path("conf/ensemble/wrong.yaml").write_text("# wrong\nmember: {small: [model=sequential_cnn]}\n")
    with pytest.raises(ValueError, match=r"wrong\.yaml: got an unexpected keyword argument 'member'"):
        Recipe.named("wrong")
    with pytest.raises(FileNotFoundError, match=r"train\.py seed=1 hydra\.run\.dir=runs/other_seed"):
        Recipe.named("both").trained()


def test_the_best_member_is_best_on_the_val_part() -> None:
    labels = torch.tensor([0, 1, 2, 0])

    def answers(*codes: int) -> Predictions:
        return Predictions(torch.arange(4), 5 * torch.eye(3)[list(codes)], labels)

    one, two, voted = answers(0, 1, 2, 0), answers(0, 1, 1, 1), answers(0, 1, 2, 1)
    members = [Member(Path("a"), {}, {"test": one}), Member(Path("b"), {}, {"test": two})]
    rows = [{"run": "a", "val": {"accuracy": 0.4}}, {"run": "b", "val": {"accuracy": 0.6}}]
    said = command.against_best_member(members, rows, voted, list("xyz"))
    assert said["best_member"] == "b"  # though it is the worse one on the test part
    assert (said["against_best_member"]["accuracy"]["a"], said["against_best_member"]["accuracy"]["b"]) == (0.75, 0.5)


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ({"data_fingerprint": "f" * 64}, "on the data"),
        ({"protocol": "kaggle"}, "under the protocol"),
        ({"classes": ["yes", "no"]}, "on the classes"),
    ],
)
def test_nets_of_other_data_protocols_or_classes_do_not_vote_together(difference: dict, said: str) -> None:
    def net(**changed: Any) -> Any:
        told = {
            "data": "faces",
            "data_fingerprint": "e" * 64,
            "protocol": "official",
            "classes": ["no", "yes"],
        } | changed
        return SimpleNamespace(
            provenance=told,
            module=SimpleNamespace(classes=told["classes"]),
            checkpoint=Path("best.ckpt"),
            faces=SimpleNamespace(fingerprint=told["data_fingerprint"], name="faces"),
            split=SimpleNamespace(name=told["protocol"]),
        )

    command.check_compatible(net(), net())
    with pytest.raises(ValueError, match=f"members must be alike: .* was trained {said}"):
        command.check_compatible(net(), net(**difference))


@pytest.mark.usefixtures("_no_pictures")
def test_a_record_counts_the_nets_that_vote(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "vote_weights", lambda *arguments: torch.tensor([0.75, 0.0, 0.25]))
    assert entry.main(["ensemble", listed(runs), "publish=two"]) == 0
    written = record("two")
    voting = [member for member in written["members"] if member["weight"]]
    assert len(voting) == 2
    assert written["params"] == sum(member["params"] for member in voting)
    assert written["minutes"] == pytest.approx(sum(member["minutes"] for member in voting), abs=0.01)


def test_a_vote_of_nets_that_leak_is_not_published(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leaky = {"leaky": True, "protocol": "leaky_all(copies=1)"}
    monkeypatch.setattr(command, "ensemble", lambda *arguments, **options: leaky)
    assert entry.main(["ensemble", listed(runs), "publish=leaky"]) == 2
    assert "leaky_all(copies=1) leaks" in capsys.readouterr().err
    assert not Path("results/leaky_seed0.json").exists()
