import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.records import part

from fer_lightning.config import ROOT
from fer_lightning.models import tta
from fer_lightning.overrides import overrides_of
from fer_lightning.run.resume import changed_settings, settings
from fer_lightning.studies.baselines.rows import (
    GROUPS,
    NETWORK_COST,
    VIEWS,
    Baseline,
    baselines,
    header_of,
    views_per_face,
)

WITH_MATRIX = [
    path for path in sorted((ROOT / "results").glob("*.json")) if "confusion_matrix" in path.read_text("utf-8")
]

WITH_SETTINGS = [path for path in sorted((ROOT / "results").glob("*.json")) if '"settings"' in path.read_text("utf-8")]


@pytest.mark.parametrize("path", WITH_MATRIX, ids=lambda path: path.stem)
def test_published_scores_follow_from_their_confusion_matrix(path: Path) -> None:
    test = json.loads(path.read_text("utf-8"))["test"]
    matrix = np.array(test["confusion_matrix"])
    f1 = 2 * matrix.diagonal() / (matrix.sum(axis=0) + matrix.sum(axis=1))
    assert matrix.sum() == test["n"]
    assert matrix.trace() / test["n"] == pytest.approx(test["accuracy"], abs=1e-6)
    assert list(test["per_class_f1"].values()) == pytest.approx(f1.tolist(), abs=1e-6)


@pytest.mark.parametrize("path", WITH_SETTINGS, ids=lambda path: path.stem)
def test_a_measured_row_still_has_the_settings_of_its_record(composed, path: Path) -> None:
    record = json.loads(path.read_text("utf-8"))
    now = settings(composed(*overrides_of(record["command"])))
    del now["seed"]
    assert not changed_settings(record["settings"], now), "measure the row again; its record moves to superseded/"


def test_measured_rows_come_first_and_the_others_are_marked_not_run(root: Path) -> None:
    measured, waiting = baselines(root)
    assert list(measured.cells().values()) == [
        "measured", "64%", "", "62.50% (57.5% to 67.5%)", "61.00% (56.0% to 66.0%)", "not run",
        "50.00% (40.0% to 60.0%)", "0.30 M",
        "1.2 MB", "not run", "41 on 2 CPU cores", "`python train.py x=1` (needs a GPU)",
    ]  # fmt: skip
    assert {waiting.cells()[column] for column in ("parameters", "size")} == {""}
    assert list(waiting.cells().values())[:5] == ["waiting", "99% (no protocol)", "", "not run: needs a GPU", "not run"]


def test_synthetic_faces_other_labels_and_other_experiments_are_no_results(root: Path) -> None:
    file = root / "results" / "measured_seed0.json"
    record = json.loads(file.read_text()) | {"kaggle_test": part(0.7)}
    file.write_text(json.dumps(record))
    assert baselines(root)[0].cells()["kaggle_test (95%)"] == "70.00% (65.0% to 75.0%)"
    file.write_text(json.dumps(record | {"protocol": "fer_plus(soft)"}))
    assert baselines(root)[0].cells()["kaggle_test (95%)"] == "other labels"
    file.write_text(json.dumps(record | {"experiment": None}))
    with pytest.raises(ValueError, match=r"measured_seed\*\.json: `python train.py x=1.*` is of another experiment"):
        baselines(root)
    file.write_text(json.dumps(record | {"synthetic": True}))
    with pytest.raises(ValueError, match=r"measured_seed\*\.json was measured on synthetic faces"):
        baselines(root)


def test_costs_are_those_of_the_networks_and_of_the_members_with_a_weight(root: Path) -> None:
    costs = {
        "measured": {"parameters": 304_423, "milliseconds": 2.0},
        "waiting": {"parameters": 5e6, "milliseconds": 0.54},
        "c": {"parameters": 2e6, "milliseconds": 1.0},
    }
    file = root / NETWORK_COST
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"networks": costs}))
    recipe = (
        "# Source    ours\n# Claim     none\nmembers:\n  a: [experiment=measured, seed=0]\n  b: [experiment=waiting]\n"
    )
    (root / "conf" / "ensemble").mkdir()
    (root / "conf" / "ensemble" / "both.yaml").write_text(recipe)

    def shown() -> dict[str, list[str]]:
        rows = {row.name: row.cells() for row in baselines(root)}
        return {name: [cells[c] for c in ("parameters", "size", "latency")] for name, cells in rows.items()}

    assert shown() == {
        "measured": ["0.30 M", "1.2 MB", "2 x 2.0 ms"],  # as many parameters as the run; its views are flip
        "waiting": ["5.00 M", "20.0 MB", "0.5 ms per view"],
        "both": ["5.30 M", "21.2 MB", "2.5 ms per view"],
    }
    record = json.loads((root / "results" / "measured_seed0.json").read_text())
    votes = [
        {"run": "outputs/baselines/a", "weight": 0.6, "views": "shifts"},
        {"run": "outputs/baselines/b", "weight": 0.0, "views": "identity"},
    ]
    ensemble = record | {"members": votes, "params": 304_423, "choose": "greedy", "weights": "equal"}
    (root / "results" / "both_seed0.json").write_text(json.dumps(ensemble | {"experiment": "both"}))
    assert shown()["both"] == ["0.30 M", "1.2 MB", "10 x 2.0 ms"]
    votes[1]["weight"] = 0.4
    (root / "results" / "both_seed0.json").write_text(
        json.dumps(ensemble | {"experiment": "both", "params": 5_304_423})
    )
    assert shown()["both"] == ["5.30 M", "21.2 MB", "10 x 2.0 + 0.5 ms"]
    (root / "results" / "both_seed0.json").unlink()
    changed = recipe + "  c: [experiment=measured, 'model.widths=[9]']\n"
    (root / "conf" / "ensemble" / "both.yaml").write_text(changed)
    assert shown()["both"] == ["7.30 M", "29.2 MB", "3.5 ms per view"]  # c is another network than `measured`
    (root / "results" / "measured_seed0.json").write_text(json.dumps(record | {"params": 310_000}))
    assert shown()["measured"] == ["0.31 M", "1.2 MB", "not run"]  # the cost is of another network


@pytest.mark.parametrize(
    ("claim", "figure"),
    [
        ("64.2 to 64.4% accuracy", "64.2 to 64.4%"),
        ("76.12% accuracy (XL size, ImageNet-22k)", "76.12%"),
        ("none", ""),
    ],
)
def test_the_terminal_shows_the_percentage_of_a_claim(claim: str, figure: str) -> None:
    assert Baseline("a", {"Claim": claim}).claimed == figure


def test_a_row_of_this_project_has_an_aim_instead_of_a_claim() -> None:
    row = Baseline("a", {"Aim": "70% within 18 minutes"})
    assert row.claimed == "aim 70%"
    assert row.cells()["source's claim"] == "aim 70% within 18 minutes"


def test_several_seeds_give_their_mean_range_and_the_widest_interval(root: Path) -> None:
    record = json.loads((root / "results" / "measured_seed0.json").read_text())
    again = record | {"seed": 1, "test": part(0.645), "command": "python train.py x=1 seed=1"}
    (root / "results" / "measured_seed1.json").write_text(json.dumps(again))
    assert baselines(root)[0].score("test") == "63.50% (57.5% to 69.5%, 2 seeds: 62.5% to 64.5%)"


@pytest.mark.parametrize("other", [{"command": "python train.py x=2 seed=1"}, {"params": 9}])
def test_seeds_of_several_recipes_are_not_averaged(root: Path, other: dict) -> None:
    record = json.loads((root / "results" / "measured_seed0.json").read_text())
    again = record | {"seed": 1, "command": "python train.py x=1 seed=1"} | other
    (root / "results" / "measured_seed1.json").write_text(json.dumps(again))
    message = r"measured_seed\*\.json are of several recipes, `x=1` and `x=.* move one away"
    with pytest.raises(ValueError, match=message):
        baselines(root)


def test_seeds_measured_with_other_settings_of_their_recipe_are_not_averaged(root: Path) -> None:
    record = json.loads((root / "results" / "measured_seed0.json").read_text())
    for seed, known in enumerate([{"settings": {"model": {"width": 8}}}, {}, {"settings": {"model": {"width": 9}}}]):
        again = record | known | {"seed": seed, "command": f"python train.py x=1 seed={seed}"}
        (root / "results" / f"measured_seed{seed}.json").write_text(json.dumps(again))
    with pytest.raises(ValueError, match=r"several recipes.*: from seed 0 to seed 2, model\.width 8 \(now 9\); move"):
        baselines(root)


def test_a_row_counts_the_views_per_face() -> None:
    arguments = {"shifts": {"shift": 0.04}, "rotations": {"degrees": 30.0, "angles": 5}}
    crops = {name: {"size": 0.833} for name in ("five_crop", "ten_crop", "centre_crop")}
    for name in (*VIEWS, "rotations"):
        options = (arguments | crops).get(name, {})
        views = getattr(tta, name)(torch.zeros(1, 1, 48, 48), **options)
        target = {"_target_": f"fer_lightning.models.tta.{name}"}
        assert views_per_face({"evaluation": {"views": target | options}}) == [len(views)]


def test_seeds_under_several_protocols_are_not_averaged(root: Path) -> None:
    record = json.loads((root / "results" / "measured_seed0.json").read_text())
    (root / "results" / "measured_seed1.json").write_text(json.dumps(record | {"seed": 1, "protocol": "kaggle(0.1)"}))
    with pytest.raises(ValueError, match=r"measured_seed\*\.json are of several protocols"):
        baselines(root)


def test_seeds_with_other_votes_are_not_averaged(root: Path) -> None:
    file = root / "results" / "measured_seed0.json"
    record = json.loads(file.read_text())
    other = root / "results" / "measured_seed1.json"
    other.write_text(json.dumps(record | {"seed": 1, "votes_fingerprint": "1"}))
    assert len(baselines(root)) > 0  # the votes of the first are not known
    file.write_text(json.dumps(record | {"votes_fingerprint": "0"}))
    with pytest.raises(ValueError, match=r"several protocols, data sets or votes"):
        baselines(root)


def test_a_header_includes_its_continuation_lines(root: Path) -> None:
    assert header_of(root / "conf" / "experiment" / "waiting.yaml") == {
        "Source": "a paper of two lines", "Claim": "99% (no protocol)", "Needs": "a GPU",
    }  # fmt: skip


def test_every_experiment_states_its_source_and_the_cost_of_a_run() -> None:
    options = [path.stem for group in GROUPS for path in (ROOT / "conf" / group).glob("*.yaml")]
    assert sorted(row.name for row in baselines()) == sorted(options)  # all have a source
    keys = {"Source", "Claim", "Aim", "Protocol", "Verdict", "Ours", "Needs", "After", "First", "Queue", "Cost", "Note"}
    for row in baselines():
        assert row.header.keys() <= keys | {"Measured"}, row.name
        assert ("Claim" in row.header) != ("Aim" in row.header), row.name
        assert row.records or row.gpu_minutes, row.name
        assert ("Protocol" in row.header) == ("Verdict" in row.header), row.name
