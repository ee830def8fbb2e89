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
from helpers.runs import edited_checkpoint

from fer_lightning import __main__ as entry
from fer_lightning.config import ROOT, check
from fer_lightning.studies import trained
from fer_lightning.studies.ensemble import command, recipe
from fer_lightning.studies.ensemble.members import Member, check_compatible, parse_members
from fer_lightning.studies.ensemble.recipe import Recipe
from fer_lightning.training.metrics import Predictions

RECIPES = sorted(path.stem for path in (ROOT / "conf" / "ensemble").glob("*.yaml"))


@pytest.fixture
def runs(tiny_runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faces_drawn_once: None) -> list[Path]:
    """Copies of the tiny runs in the test's own working directory."""
    monkeypatch.chdir(tmp_path)
    for run in tiny_runs:
        shutil.copytree(run, Path("runs") / run.name)
    return [Path("runs") / run.name for run in tiny_runs]


def members_argument(runs: list[Path]) -> str:
    return f"members=[{','.join(map(str, runs))}]"


def record(name: str) -> dict:
    return json.loads((Path("outputs") / "ensembles" / name / "record.json").read_text())


def test_an_ensemble_is_the_mean_of_its_members(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["ensemble", members_argument(runs), "publish=three"]) == 0
    voted = pd.read_parquet("outputs/ensembles/three/predictions.parquet")
    members = [pd.read_parquet(run / "predictions.parquet") for run in runs]
    for column in ("p_happy", "p_neutral"):
        mean = np.mean([table[column] for table in members], axis=0)
        np.testing.assert_allclose(voted[column], mean, atol=1e-5)
    written = record("three")
    run_records = [json.loads((run / "record.json").read_text()) for run in runs]
    for member, run in zip(written["members"], run_records, strict=True):
        assert member["test"]["accuracy"] == run["test"]["accuracy"]
        assert member["val"]["accuracy"] == pytest.approx(run["val"]["accuracy"])
        assert member["weight"] == pytest.approx(1 / 3)
    assert [member["views"] for member in written["members"]] == ["identity", "identity", "flip"]
    assert written["test"]["accuracy"] == pytest.approx(voted["correct"].mean())
    assert np.trace(written["test"]["confusion_matrix"]) == voted["correct"].sum()
    assert written["params"] == sum(run["params"] for run in run_records)
    assert written["minutes"] == pytest.approx(sum(run["minutes"] for run in run_records), abs=0.01)
    assert json.loads(Path("results/three_seed0.json").read_text()) == written
    assert written["kaggle_test"]["n"] == written["test"]["n"] + len(voted)  # both parts have the same size here
    for key in ("seed", "test_deduplicated", "command", "machine", "commit", "versions", "data", "protocol"):
        assert key in written
    for name in ("report.md", "members.png", "reliability_diagram.png", "confusion_matrix.png"):
        assert (Path("outputs/ensembles/three") / name).stat().st_size > 0
    assert "optimistic" not in Path("outputs/ensembles/three/report.md").read_text()
    shown = capsys.readouterr().out
    assert "McNemar" in shown
    assert "3 of 3 networks vote" in " ".join(shown.split())
    assert entry.main(["compare", "outputs/ensembles/three", str(runs[0])]) == 0


@pytest.mark.usefixtures("no_figures")
def test_members_are_patterns_or_checkpoints_with_other_views(runs: list[Path]) -> None:
    arguments = ["ensemble", f"members=[runs/*e*,{runs[0]}/checkpoints/last.ckpt]", "eval=flip", "publish=two"]
    assert entry.main(arguments) == 0
    members = record("two")["members"]
    assert [Path(m["checkpoint"]).parts[1:] for m in members] == [
        ("flipped", "checkpoints", "best.ckpt"),
        ("other_seed", "checkpoints", "best.ckpt"),
        ("small", "checkpoints", "last.ckpt"),
    ]
    assert {m["views"] for m in members} == {"flip"}


def test_duplicate_members_are_ignored(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    duplicate = f"{runs[0].absolute()}/checkpoints/best.ckpt"
    assert parse_members(f"[{runs[0]},{runs[1]},{duplicate}]") == [runs[0], runs[1]]
    assert entry.main(["ensemble", f"members=[{runs[0]},{duplicate}]"]) == 2
    assert f"members lists {runs[0]} more than once" in capsys.readouterr().err


def test_a_pattern_may_end_in_a_class_of_characters(runs: list[Path]) -> None:
    assert parse_members(f"{runs[0].parent}/smal[kl]") == [runs[0]]


@pytest.mark.usefixtures("no_figures")
def test_the_published_record_of_another_command_is_not_overwritten(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ensemble", members_argument(runs[:2]), "publish=both"]
    for _ in range(2):
        assert entry.main(arguments) == 0
    assert entry.main([*arguments, "choose=greedy"]) == 2
    message = "results/both_seed0.json holds the result of `python -m fer_lightning ensemble"
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("no_figures")
def test_predictions_of_a_network_are_cached(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    member = members_argument(runs[1:2])
    assert entry.main(["ensemble", member, "publish=first"]) == 0
    predicted: list[str] = []
    predict = trained.TrainedRun.predict
    monkeypatch.setattr(
        trained.TrainedRun, "predict", lambda self, part: (predicted.append(part), predict(self, part))[1]
    )
    assert entry.main(["ensemble", member, "publish=again"]) == 0
    assert predicted == []
    assert record("again")["test"] == record("first")["test"]
    assert entry.main(["ensemble", member, "eval=flip", "publish=flipped"]) == 0
    assert predicted == ["val", "test"]
    predicted.clear()
    shutil.copy(runs[2] / "checkpoints/best.ckpt", runs[1] / "checkpoints/best.ckpt")  # other weights, same path
    assert entry.main(["ensemble", member, "eval=plain", "publish=replaced"]) == 0
    assert predicted == ["val", "test"]


@pytest.mark.usefixtures("no_figures")
def test_labels_of_the_test_part_do_not_change_the_voting(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    voting = ["weights=fitted", "choose=greedy"]
    assert entry.main(["ensemble", members_argument(runs), *voting, "publish=before"]) == 0
    prepare = trained.prepare_data

    def with_shuffled_test_labels(config):
        datamodule = prepare(config)
        labels, test = np.array(datamodule.faces.labels), datamodule.split.indices["test"]
        labels[test] = np.random.default_rng(0).permutation(labels[test])
        datamodule.faces = dataclasses.replace(datamodule.faces, labels=labels)
        return datamodule

    monkeypatch.setattr(trained, "prepare_data", with_shuffled_test_labels)
    assert entry.main(["ensemble", members_argument(runs), *voting, "publish=after"]) == 0
    before, after = record("before"), record("after")
    assert after["test"] != before["test"]
    assert after["val"] == before["val"]
    assert after["calibration"]["temperature"] == before["calibration"]["temperature"]
    assert after["best_member"] == before["best_member"]
    assert [m["weight"] for m in after["members"]] == [m["weight"] for m in before["members"]]
    tables = [pd.read_parquet(f"outputs/ensembles/{name}/predictions.parquet") for name in ("before", "after")]
    assert tables[0]["p_happy"].equals(tables[1]["p_happy"])
    assert "optimistic" in Path("outputs/ensembles/before/report.md").read_text()


def test_members_must_have_the_same_protocol(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = runs[1] / "checkpoints" / "best.ckpt"
    with edited_checkpoint(checkpoint) as content:
        content["hyper_parameters"]["provenance"]["protocol"] = "kaggle"
    assert entry.main(["ensemble", members_argument(runs)]) == 2
    message = capsys.readouterr().err
    assert "small" in message
    assert "under the protocol official" in message
    assert "under the protocol kaggle" in message


def test_members_are_evaluated_on_the_data_they_were_trained_on(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["ensemble", members_argument(runs), "data.count=220"]) == 2
    assert "was trained on synthetic" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["members=[nowhere]"], "nowhere"),
        (["members=[no*]"], "no run or checkpoint matches no*"),
        (["members=[]"], "members lists no run"),
        (["weights=fitted"], "members="),
        (["members=[runs/small]", "weights=best"], "'fitted'"),
        (["members=[runs/small]", "choose=best"], "'greedy'"),
        (["recipe=nothing"], "khanzada7"),
        (["recipe=khanzada7"], "7 of the 7 members"),
    ],
)
def test_wrong_arguments_give_a_message(
    runs: list[Path], arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["ensemble", *arguments]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert "Traceback" not in message


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_compose_and_state_their_claim(composed, name: str) -> None:
    text = (ROOT / "conf" / "ensemble" / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert re.search(r"^# (Claim|Aim) {2,}", text, flags=re.MULTILINE)
    chosen = Recipe.named(name)
    assert len(chosen.members) > 1
    assert chosen.weights in ("equal", "fitted")
    assert chosen.choose in ("all", "greedy")
    for overrides in chosen.members.values():
        check(config := composed(*overrides))
        on_fer_plus = config.protocol["_target_"].endswith(".fer_plus")
        assert bool(config.data.votes_path) == on_fer_plus


@pytest.mark.usefixtures("no_figures")
def test_a_recipe_uses_the_runs_of_its_members(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_best_member_is_the_best_on_the_val_part() -> None:
    labels = torch.tensor([0, 1, 2, 0])

    def predictions(*codes: int) -> Predictions:
        return Predictions(torch.arange(4), 5 * torch.eye(3)[list(codes)], labels)

    one, two, voted = predictions(0, 1, 2, 0), predictions(0, 1, 1, 1), predictions(0, 1, 2, 1)
    members = [Member(Path("a"), {}, {"test": one}), Member(Path("b"), {}, {"test": two})]
    rows = [{"run": "a", "val": {"accuracy": 0.4}}, {"run": "b", "val": {"accuracy": 0.6}}]
    result = command.against_best_member(members, rows, voted, list("xyz"))
    assert result["best_member"] == "b"  # although it is worse on the test part
    accuracy = result["against_best_member"]["accuracy"]
    assert (accuracy["a"], accuracy["b"]) == (0.75, 0.5)


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ({"data_fingerprint": "f" * 64}, "on the data"),
        ({"protocol": "kaggle"}, "under the protocol"),
        ({"classes": ["yes", "no"]}, "on the classes"),
    ],
)
def test_networks_of_other_data_protocols_or_classes_are_incompatible(difference: dict, expected: str) -> None:
    def trained_run(**changed: Any) -> Any:
        provenance = {
            "data": "faces",
            "data_fingerprint": "e" * 64,
            "protocol": "official",
            "classes": ["no", "yes"],
        } | changed
        return SimpleNamespace(
            provenance=provenance,
            module=SimpleNamespace(classes=provenance["classes"]),
            checkpoint=Path("best.ckpt"),
            faces=SimpleNamespace(fingerprint=provenance["data_fingerprint"], name="faces"),
            split=SimpleNamespace(name=provenance["protocol"]),
        )

    check_compatible(trained_run(), trained_run())
    with pytest.raises(ValueError, match=f"members must have the same data, .* was trained {expected}"):
        check_compatible(trained_run(), trained_run(**difference))


@pytest.mark.usefixtures("no_figures")
def test_a_record_counts_the_members_with_a_weight(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "vote_weights", lambda *arguments: torch.tensor([0.75, 0.0, 0.25]))
    assert entry.main(["ensemble", members_argument(runs), "publish=two"]) == 0
    written = record("two")
    voting = [member for member in written["members"] if member["weight"]]
    assert len(voting) == 2
    assert written["params"] == sum(member["params"] for member in voting)
    assert written["minutes"] == pytest.approx(sum(member["minutes"] for member in voting), abs=0.01)


def test_an_ensemble_of_a_leaky_protocol_is_not_published(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leaky = {"leaky": True, "protocol": "leaky_all(copies=1)"}
    monkeypatch.setattr(command, "ensemble", lambda *arguments, **options: leaky)
    assert entry.main(["ensemble", members_argument(runs), "publish=leaky"]) == 2
    assert "leaky_all(copies=1) is leaky" in capsys.readouterr().err
    assert not Path("results/leaky_seed0.json").exists()
