import json
from pathlib import Path

import pytest
from conftest import ROOT

from fer_lightning import __main__ as entry
from fer_lightning.studies import baselines


def part(accuracy: float) -> dict:
    return {
        "n": 100,
        "accuracy": accuracy,
        "accuracy_interval": [accuracy - 0.05, accuracy + 0.05],
        "macro_f1": 0.5,
        "balanced_accuracy": 0.5,
        "ece": 0.1,
        "per_class_f1": {"happy": 0.75},
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    for name, claim in {"measured": "64%", "waiting": "99% (no protocol)"}.items():
        text = f"# @package _global_\n# Source    a paper\n# Claim     {claim}\n"
        (tmp_path / "conf" / "experiment" / f"{name}.yaml").write_text(text)
    record = {
        "seed": 0, "test": part(0.625), "test_deduplicated": part(0.61), "val": {"accuracy": 0.6}, "params": 304423,
        "minutes": 41.2, "machine": {"gpu": None, "cores": 2, "cpu": "a CPU"}, "command": "python train.py x=1",
        "best_epoch": 9, "epochs": 10, "precision": "32-true", "data": "fer2013", "data_fingerprint": "f" * 64,
        "protocol": "official", "commit": "c" * 40, "versions": {"torch": "2"},
    }  # fmt: skip
    (tmp_path / "results" / "measured_seed0.json").write_text(json.dumps(record))
    (tmp_path / "README.md").write_text(f"head\n{baselines.MARKS[0]}\nold\n{baselines.MARKS[1]}\ntail\n")
    return tmp_path


def test_measured_rows_come_first_and_others_say_not_run(root: Path) -> None:
    measured, waiting = baselines.baselines(root)
    assert measured.cells()[:4] == ["measured", "64%", "62.50% (57.5% to 67.5%)", "61.00% (56.0% to 66.0%)"]
    assert measured.cells()[5:] == ["0.30 M", "41 on 2 CPU cores", "`python train.py x=1`"]
    assert waiting.cells()[:3] == ["waiting", "99% (no protocol)", "not run"]


def test_write_makes_the_page_and_the_head_in_the_readme(root: Path) -> None:
    baselines.write(root)
    page = (root / "docs" / "RESULTS.md").read_text()
    assert "| waiting | 99% (no protocol) | not run |" in page
    assert "happy 0.75" in page
    readme = (root / "README.md").read_text()
    assert readme.startswith("head\n")
    assert readme.endswith("\ntail\n")
    assert "62.50%" in readme
    assert "1 more of the published systems can be run: not run yet" in readme
    assert "old" not in readme


def test_the_readme_and_the_page_are_what_the_records_say() -> None:
    rows = baselines.baselines()
    assert baselines.results_head(rows) in (ROOT / "README.md").read_text()
    assert (ROOT / "docs" / "RESULTS.md").read_text() == baselines.results_page(rows)


def test_the_verb_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["baselines"]) == 0
    assert "custom_cnn" in capsys.readouterr().out
    assert entry.main(["baselines", "erase"]) == 2
    assert "erase" in capsys.readouterr().err
