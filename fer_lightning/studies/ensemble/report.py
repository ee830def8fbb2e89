"""Report of an ensemble in Markdown and figures: each member and the ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_lightning.data.arrays import FaceArrays
from fer_lightning.files import write_json
from fer_lightning.reporting import figures
from fer_lightning.reporting.markdown import points, table, with_interval
from fer_lightning.reporting.report import write_report
from fer_lightning.run_folder import RECORD
from fer_lightning.studies.calibrate import Calibration, save_diagram
from fer_lightning.training.metrics import Predictions, Scores


def summary(record: Mapping[str, Any]) -> str:
    """Summarise the voting and compare the ensemble with its best member."""
    against, test = record["against_best_member"], record["against_best_member"]["mcnemar"]
    low, high = against["accuracy"]["interval"]
    voting = sum(row["weight"] > 0 for row in record["members"])
    gain = f"{points(against['accuracy']['difference'], 2)} points of accuracy"
    return (
        f"{voting} of {len(record['members'])} networks vote ({record['choose']}, weights {record['weights']}). "
        f"Compared with {record['best_member']}, the best member on the val part: {gain} on the test part "
        f"({points(low)} to {points(high)}); only the ensemble is right on {test['only_a']:,} images, "
        f"only that member on {test['only_b']:,} (McNemar, {test['test']}: p = {test['p']:.2g})."
    )


def write_ensemble_report(
    folder: Path,
    faces: FaceArrays,
    predictions: Predictions,
    scores: Mapping[str, Scores],
    record: Mapping[str, Any],
    calibration: Calibration,
) -> None:
    """Write report.md, record.json, the files of every evaluation, and the figures of members and calibration."""
    write_report(folder, faces, predictions, scores, protocol=record["protocol"])
    write_json(folder / RECORD, record)
    (folder / "report.md").write_text(markdown(record), "utf-8")
    save_diagram(calibration, folder / "reliability_diagram.png")
    runs = [Path(row["run"]) for row in record["members"]]
    ambiguous = len({run.name for run in runs}) < len(runs)
    named = {str(run) if ambiguous else run.name: row for run, row in zip(runs, record["members"], strict=True)}
    dots = {
        name: (row["test"]["accuracy"], *row["test"]["accuracy_interval"])
        for name, row in {**named, "ensemble": record}.items()
    }
    figure = figures.intervals(dots, "Accuracy on the test part, 95% intervals", marked="ensemble")
    figures.save(figure, folder / "members.png")


def markdown(record: Mapping[str, Any]) -> str:
    """Return the report in Markdown: each member, the ensemble and how the voting was selected."""

    def cells(row: Mapping[str, Any]) -> list[str]:
        accuracies = [
            with_interval(row[part]["accuracy"], row[part]["accuracy_interval"]) if part in row else ""
            for part in ("test", "test_deduplicated")
        ]
        f1, size = f"{row['test']['macro_f1']:.2%}", f"{row['params'] / 1e6:.2f} M"
        return [f"{row['val']['accuracy']:.2%}", *accuracies, f1, size]

    head = [
        "",
        "weight",
        "views",
        "val accuracy",
        "test accuracy (95%)",
        "without copies (95%)",
        "macro F1",
        "parameters",
    ]
    rows = [[row["run"], f"{row['weight']:.3f}", row["views"], *cells(row)] for row in record["members"]]
    rows.append(["**ensemble**", "", "", *cells(record)])
    selected = record["weights"] == "fitted" or record["choose"] == "greedy"
    note = " The voting was selected on the val part, so the val accuracy is optimistic." if selected else ""
    calibration = record["calibration"]
    before, after = calibration["test_before"], calibration["test_after"]
    return "\n".join(
        [
            f"# Ensemble {record['name']}\n",
            table(head, rows),
            "",
            summary(record) + note + "\n",
            f"Temperature {calibration['temperature']:.3f}, fitted on the val part, changes the calibration error on "
            f"the test part from {before['ece']:.2%} to {after['ece']:.2%} and the negative log-likelihood from "
            f"{before['nll']:.3f} to {after['nll']:.3f}.\n",
            f"Data {record['data']} {record['data_fingerprint'][:12]}, protocol {record['protocol']}, "
            f"commit {record['commit'][:12]}.\n",
            "![Members](members.png)\n",
            "![Reliability diagram](reliability_diagram.png)\n",
            f"```\n{record['command']}\n```\n",
        ]
    )
