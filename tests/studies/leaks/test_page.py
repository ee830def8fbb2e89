from pathlib import Path

import pytest
from helpers.leak_records import write_records

from fer_lightning.studies.leaks.page import gain, write


def test_the_page_shows_the_records_and_the_missing_runs(folder: Path) -> None:
    write_records(folder, official=0.57, stored_copies=0.6, leaky_augmented=0.83)
    write(folder)
    page = (folder / "docs" / "LEAKS.md").read_text()
    assert "| official | 3,000 | 99.0% | 57.00% (54.0% to 60.0%) |  |" in page
    assert "| leaky_augmented | 3,000 | 99.0% | 83.00% (80.0% to 86.0%) | +26.0 (+21.8 to +30.2) |" in page
    assert "| leaky_all |  |  | not run |" in page
    assert "instead of after it: +23.0 points (+18.8 to +27.2)" in page
    assert "86%" not in page.split("## Conclusions")[1]  # no conclusion on the claim before all are measured
    write_records(folder, leaky_selected=0.58, leaky_pooled=0.57, leaky_oversampled=0.85, leaky_all=0.88)
    write(folder)
    assert "claims 86%. Here leaky_all reached it." in (folder / "docs" / "LEAKS.md").read_text()


def test_gain_matches_values_by_hand() -> None:
    one = {"accuracy": 0.8, "accuracy_interval": [0.76, 0.83]}
    other = {"accuracy": 0.6, "accuracy_interval": [0.56, 0.63]}
    assert gain(one, other) == pytest.approx((0.2, 0.2 - 0.05, 0.2 + 0.05))
