import json
from pathlib import Path

import pytest
from helpers.records import part

from fer_lightning.config import ROOT
from fer_lightning.reporting.records import SUPERSEDED, publish
from fer_lightning.studies.baselines import page
from fer_lightning.studies.baselines.rows import baselines, file_of


def test_a_row_on_other_labels_comes_after_those_on_fer2013s(root: Path) -> None:
    record = json.loads((root / "results" / "measured_seed0.json").read_text())
    other = record | {"test": part(0.85), "protocol": "fer_plus(soft)"}
    (root / "conf" / "experiment" / "easier.yaml").write_text("# Source    a paper\n# Claim     85%\n")
    (root / "results" / "easier_seed0.json").write_text(json.dumps(other | {"experiment": "easier"}))
    rows = baselines(root)
    assert [row.name for row in rows] == ["measured", "easier", "waiting"]
    assert "85.00% (80.0% to 90.0%, fer_plus(soft))" in page.results_head(rows)


def test_earlier_results_are_kept_and_listed(root: Path) -> None:
    file = root / "results" / "measured_seed0.json"
    publish(file, json.loads(file.read_text()) | {"test": part(0.7), "commit": "d" * 40})
    assert [path.name for path in (file.parent / SUPERSEDED).iterdir()] == ["measured_seed0_cccccccccccc.json"]
    [measured, _] = rows = baselines(root)
    assert measured.score("test") == "70.00% (65.0% to 75.0%)"
    for accuracy in (0.71, 0.72):  # of one commit
        publish(file, json.loads(file.read_text()) | {"test": part(accuracy)})
    assert sorted(row["test"]["accuracy"] for row in baselines(root)[0].superseded) == [0.625, 0.7, 0.71]
    assert "Earlier result, seed 0: 62.50% on PrivateTest, commit cccccccccccc" in page.results_page(rows)


def test_public_test_is_shown_with_the_views_of_the_test_part(root: Path) -> None:
    file = root / "results" / "measured_seed0.json"
    both = part(0.675) | {"n": 200}  # 62.5 of 100 in PrivateTest, so 72.5 of 100 in PublicTest
    file.write_text(json.dumps(json.loads(file.read_text()) | {"kaggle_test": both}))
    assert "PublicTest 72.50% with the same views, 60.00% when selected" in page.results_page(baselines(root))


def test_write_updates_the_page_the_readme_and_the_headers(root: Path) -> None:
    page.write(root)
    written = (root / "docs" / "RESULTS.md").read_text()
    assert "| waiting | 99% (no protocol) |  | not run: needs a GPU | not run |" in written
    assert "happy 0.75" in written
    readme = (root / "README.md").read_text()
    assert readme.startswith("head\n")
    assert readme.endswith("\ntail\n")
    assert "62.50%" in readme
    assert "1 more experiments are defined but not run yet" in readme
    assert "old" not in readme
    page.write(root)
    header = (root / "conf" / "experiment" / "measured.yaml").read_text().splitlines()
    assert header[-1] == "# Measured  62.50% (57.5% to 67.5%) on PrivateTest, 41 minutes on 2 CPU cores"
    assert sum("Measured" in line for line in header) == 1
    assert "Measured" not in (root / "conf" / "experiment" / "waiting.yaml").read_text()


def test_the_readme_and_the_page_match_the_records() -> None:
    rows = baselines()
    assert page.results_head(rows) in (ROOT / "README.md").read_text()
    assert (ROOT / "docs" / "RESULTS.md").read_text() == page.results_page(rows)
    for row in rows:
        text = file_of(ROOT, row.name).read_text()
        assert text == page.with_measured(text, row), row.name


def test_a_readme_without_the_marks_is_not_changed(root: Path) -> None:
    (root / "README.md").write_text(f"head\n{page.MARKS[0]}\nold\n")
    with pytest.raises(ValueError, match=r"README\.md must have the line <!-- end of results --> once"):
        page.write(root)
    assert not (root / "docs" / "RESULTS.md").exists()
