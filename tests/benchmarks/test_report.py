from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from fer_lightning.config import ROOT

REPORT = runpy.run_path(str(ROOT / "benchmarks" / "report.py"))
page = REPORT["page"]
MACHINE = {
    "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 8.0, "gpu": None},
    "versions": {"torch": "2"},
    "commit": "abc",
}
RATES = {
    "resident_images_per_second": 1000.0,
    "streamed_images_per_second": 990.0,
    "streamed_over_resident": 0.99,
}


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "PERFORMANCE.md").read_text() == page(), "run python benchmarks/report.py"


def test_every_section_has_its_script_and_every_result_its_section() -> None:
    names = {section.name for section in REPORT["SECTIONS"]}
    assert {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")} <= names
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert scripts - {"report", "harness", "training_step"} == names


def test_missing_results_are_marked(tmp_path: Path) -> None:
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
                        **{"experiment": name, "seed": 0, "seconds": seconds, "epochs": 9, "parameters": 490_000},
                        **{"private_test_accuracy": accuracy, "public_test_accuracy": 0.6},
                        "commit": "0123456789abcdef",
                    }
                    for name, seconds, accuracy in (
                        ("quick", 88.4, 0.6123),
                        ("speedrun_cpu", 90.0, 0.6),
                        ("speedrun_cpu_65", 241.0, 0.66),
                        ("speedrun_cpu_70", 1000.0, 0.699),
                    )
                ]
            },
            [
                "| quick | 0 |  | 88 | 61.23% | 60.00% |  | 9 | 0.49 M | 0123456789ab |",
                "| speedrun_cpu | 0 | 60% within 90 seconds | 90 | 60.00% | 60.00% | yes | 9 |",
                "| speedrun_cpu_65 | 0 | 65% within 4 minutes | 241 | 66.00% | 60.00% | no | 9 |",
                "| speedrun_cpu_70 | 0 | 70% within 18 minutes | 1,000 | 69.90% | 60.00% | no | 9 |",
            ],
        ),
        (
            "augmentation",
            {
                "images_per_second": {"BatchedAugmentation": 40_000.0, "albumentations per image": 10_000.0},
                "ratio_to_albumentations": {"BatchedAugmentation": 4.1, "albumentations per image": 1.0},
                "share_of_a_training_step": {
                    **{"model": "net", "batch_size": 64, "precision": "bf16-mixed", "threads": 2},
                    **{"input_pipeline_ms": 0.6, "training_step_ms": 60.0, "share": 0.04},
                },
            },
            [
                "| albumentations per image | 10,000 | 1.00 |",
                "| BatchedAugmentation | 40,000 | 4.10 |",
                "| 4.0% of the step |",
                "Aim: at least 4 times albumentations (reached). Aim: at most 3% of a training step (not reached).",
            ],
        ),
        (
            "streaming",
            {
                "model": "net",
                "training": {**RATES, "streamed_from_disk_images_per_second": 890.0},
                "input_pipeline": RATES,
                "memory_mib": [{"when": "image 0", "anonymous": 1375, "file": 167}],
            },
            [
                "| training, net | 1,000 | 990 | 99.0% | 890 | 89.0% |",
                "| input pipeline | 1,000 | 990 | 99.0% |  |  |",
                "| memory, image 0 |  | 1,375 MiB anonymous, 167 MiB of files |  |  |  |",
                "Aim: training at least 90% of resident (reached). Aim: the same from disk (not reached).",
            ],
        ),
        (
            "end_to_end",
            {
                "models": {
                    "net": {
                        **{"usual_images_per_second": 500.0, "ours_images_per_second": 1500.0},
                        **{"ratio": 3.0, "precision": "32-true"},
                    }
                }
            },
            ["| net | 500 | 1,500 | 3.00 | 32-true |"],
        ),
        (
            "compilation",
            {
                "compact": {
                    **{"plain_ms": 80.0, "compiled_ms": 60.0, "ratio": 0.749, "seconds_to_compile": 41.6},
                    **{"rounds": 5, "batch_size": 64, "precision": "bf16-mixed"},
                }
            },
            ["| compact | 80.0 | 60.0 | 0.749 | 42 | 5 |"],
        ),
        (
            "training_loop",
            {
                "sequential_cnn": {
                    **{"bare_ms": 40.04, "lightning_ms": 41.2, "ratio": 1.029, "lowest": 0.99, "highest": 1.1},
                    **{"rounds": 7, "batch_size": 64, "precision": "32-true"},
                },
            },
            [
                "| sequential_cnn | 40.0 | 41.2 | 1.029 | 0.990 to 1.100 | 7 | 64 | 32-true |",
                "Aim: at most 1.03 for custom_cnn (not measured). Aim: at most 1.10 at a step of 5 ms (not measured).",
            ],
        ),
        (
            "inference",
            {
                **{"bundle": "net", "parameters": 1_230_000, "seconds_from_start_to_first_answer": 0.3},
                "milliseconds_a_face_one_thread": {"batch 1": {"PyTorch": 3.1}, "batch 64": {"PyTorch": 0.9}},
                "seconds_for_1000_jpegs_all_cores": {"float": 0.5},
            },
            ["| net, 1.23 M parameters | batch 1, ms", "| PyTorch | 3.100 | 0.900 |"],
        ),
        (
            "growth",
            {
                "rows": [
                    {
                        **{"images": 2000, "epochs": 2, "processes": 1, "seconds_an_epoch": 1.234},
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
            {
                "commands": {
                    name: {"seconds": seconds, "largest_seconds": 1.4, "peak_mib": 31}
                    for name, seconds in {**dict.fromkeys(REPORT["SHOWN"], 0.3), REPORT["FIRST_STEP"]: 10.1}.items()
                }
            },
            [
                "| python train.py --help | 0.30 | 1.40 | 31 |",
                "Aim: `--cfg job` and `--help` under 1 s (reached). Aim: the first step within 10 s (not reached).",
            ],
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
def test_tables_contain_the_results(tmp_path: Path, name: str, result: dict, lines: list[str]) -> None:
    (tmp_path / f"{name}.json").write_text(json.dumps({"question": "How fast?", **result, **MACHINE}))
    text = page(tmp_path)
    for line in lines:
        assert line in text
    assert "How fast?" in text
    assert f"`benchmarks/{name}.py`; measured on a CPU, 2 cores, 8.0 GiB, no GPU, PyTorch 2, at commit `abc`." in text
    for row in text.splitlines():
        assert not row.startswith("|") or row.count("|") >= 3


@pytest.mark.parametrize(("rounds", "expected"), [(1, "1 round"), (7, "7 rounds")])
def test_the_number_of_rounds_is_shown(tmp_path: Path, rounds: int, expected: str) -> None:
    (tmp_path / "growth.json").write_text(json.dumps({"question": "How?", "rounds": rounds, "rows": [], **MACHINE}))
    assert f"`benchmarks/growth.py`, {expected}; measured on a CPU" in page(tmp_path)
