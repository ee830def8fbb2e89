from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from conftest import ROOT

REPORT = runpy.run_path(str(ROOT / "benchmarks" / "report.py"))
page = REPORT["page"]
MACHINE = {
    "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 8.0, "gpu": None},
    "versions": {"torch": "2"},
    "commit": "abc",
}
RATES = {
    "resident_pictures_per_second": 1000.0,
    "streamed_pictures_per_second": 990.0,
    "streamed_over_resident": 0.99,
}


def test_the_page_is_what_the_benchmarks_wrote() -> None:
    assert (ROOT / "docs" / "PERFORMANCE.md").read_text() == page(), "run python benchmarks/report.py"


def test_every_section_has_its_script_and_every_result_its_section() -> None:
    names = {section.name for section in REPORT["SECTIONS"]}
    assert {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")} <= names
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"report", "step"}
    assert scripts == names


def test_what_was_not_measured_says_so(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert text.count("not run (") == len(REPORT["SECTIONS"])
    assert "|" not in text


@pytest.mark.parametrize(
    ("name", "result", "lines"),
    [
        (
            "time_to_accuracy",
            {
                "runs": [
                    {
                        **{"experiment": "quick", "seed": 0, "seconds": 88.4, "epochs": 9, "parameters": 490_000},
                        **{"private_test_accuracy": 0.6123, "public_test_accuracy": 0.6, "commit": "0123456789abcdef"},
                    }
                ]
            },
            ["| quick | 0 | 88 | 61.23% | 60.00% | 9 | 0.49 M | 0123456789ab |"],
        ),
        (
            "augmentation",
            {
                "pictures_per_second": {"ours": 40_000.0, "albumentations per picture": 10_000.0},
                "ratio_to_albumentations": {"ours": 4.1, "albumentations per picture": 1.0},
                "share_of_a_training_step": {
                    **{"model": "net", "batch_size": 64, "precision": "bf16-mixed", "threads": 2},
                    **{"input_pipeline_ms": 0.6, "training_step_ms": 60.0, "share": 0.01},
                },
            },
            ["| albumentations per picture | 10,000 | 1.00 |", "| ours | 40,000 | 4.10 |", "| 1.0% of the step |"],
        ),
        (
            "streaming",
            {
                "model": "net",
                "training": {**RATES, "streamed_from_disk_pictures_per_second": 900.0},
                "input_pipeline": RATES,
                "memory_mib": [{"when": "picture 0", "anonymous": 1375, "file": 167}],
            },
            ["| training, net | 1,000 | 990 | 99.0% | 900 |", "| memory, picture 0 |", "1,375 MiB anonymous"],
        ),
        (
            "end_to_end",
            {
                "models": {
                    "net": {
                        **{"usual_pictures_per_second": 500.0, "ours_pictures_per_second": 1500.0},
                        **{"ratio": 3.0, "precision": "32-true"},
                    }
                }
            },
            ["| net | 500 | 1,500 | 3.00 | 32-true |"],
        ),
        (
            "growth",
            {
                "rows": [
                    {
                        **{"pictures": 2000, "epochs": 2, "processes": 1, "seconds_an_epoch": 1.234},
                        **{"seconds_whole": 9.0, "seconds_beside_training": 6.5, "peak_gib": 0.75},
                    }
                ]
            },
            ["| 2,000 | 2 | 1 | 1.23 | 9.00 | 6.50 | 0.75 |"],
        ),
        (
            "side_by_side",
            {
                "epochs": 3,
                "experiments": {
                    "net": {"one_after_the_other_seconds": 100.4, "side_by_side_seconds": 80.0, "ratio": 1.255}
                },
            },
            ["| net, 3 epochs | 100 | 80 | 1.25 |"],
        ),
        (
            "network_cost",
            {"networks": {"net": {"parameters": 1_370_000, "multiplications": 23_456_789, "milliseconds": 1.234}}},
            ["| net | 1.37 M | 23.5 | 1.23 |"],
        ),
        (
            "start_up",
            {"commands": {"python train.py --help": {"seconds": 0.3, "largest_seconds": 0.4, "peak_mib": 31}}},
            ["| python train.py --help | 0.30 | 0.40 | 31 |"],
        ),
        (
            "malformed",
            {
                **{"inputs": 9, "failures": 1, "most_memory_mib": 5},
                "targets": [
                    {"target": "csv", "inputs": 9, "refused": 8, "accepted": 0, "failures": ["x"], "memory_mib": 5},
                    {"target": "zip", "failures": []},
                ],
            },
            ["| csv | 9 | 8 | 0 | 1 | 5 |", "| zip |  |  |  | 0 |  |", "| all | 9 |  |  | 1 | 5 |"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tables_are_copied_from_the_files(tmp_path: Path, name: str, result: dict, lines: list[str]) -> None:
    (tmp_path / f"{name}.json").write_text(json.dumps({"question": "How fast?", **result, **MACHINE}))
    text = page(tmp_path)
    for line in lines:
        assert line in text
    assert "How fast?" in text
    assert f"`benchmarks/{name}.py`; measured on a CPU, 2 cores, 8.0 GiB, no GPU, PyTorch 2, at commit `abc`." in text
    for row in text.splitlines():
        assert not row.startswith("|") or row.count("|") >= 3
