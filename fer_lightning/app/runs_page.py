"""The second page: measured baselines and the reports of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from fer_lightning.app.cards import escaped
from fer_lightning.app.choices import OUTPUTS
from fer_lightning.reporting import figures
from fer_lightning.reporting.records import read_record
from fer_lightning.run_folder import CONFIDENTLY_WRONG, CONFUSION_MATRIX, PER_CLASS_F1, RECORD, TRAINING_CURVES
from fer_lightning.studies.baselines.rows import README_COLUMNS, baselines

REPORT = {
    CONFUSION_MATRIX: "Confusion matrix",
    PER_CLASS_F1: "F1 of each class",
    TRAINING_CURVES: "Training",
    CONFIDENTLY_WRONG: "Most confident errors",
}
SCORES = ("Validation accuracy", "Test accuracy", "Test macro F1")
PERCENT = st.column_config.NumberColumn(format="percent")


def page() -> None:
    """Show the measured rows of the results table, and the runs in outputs/ with their figures."""
    st.title("Results", anchor=False)
    show_baselines()
    show_runs()


def show_baselines() -> None:
    """Show the table of measured baselines, and command, F1 and confusion matrix of the selected one."""
    try:
        rows = baselines()
    except ValueError as error:  # a record in results/ is damaged or misplaced
        st.error(escaped(str(error)))
        return
    measured = [row for row in rows if row.records]
    st.subheader("Measured systems", anchor=False)
    if not measured:
        st.info("None was measured yet: `python -m fer_lightning baselines` lists them.")
        return
    st.caption(
        "Selected on PublicTest, finally measured on PrivateTest; 95% bootstrap intervals. *Without copies* excludes "
        f"test images that also occur in the other parts. {len(rows) - len(measured)} more can be run."
    )
    cells = [row.cells() for row in measured]
    st.dataframe(pd.DataFrame([{column: row[column] for column in README_COLUMNS} for row in cells]), hide_index=True)
    runs = [(row.name, record) for row in measured for record in row.records]
    position = st.selectbox(
        "Details of",
        range(len(runs)),
        index=None,
        format_func=lambda i: f"{runs[i][0]}, seed {runs[i][1]['seed']}",
        placeholder="select a system",
    )
    if position is None:
        return
    record = runs[position][1]
    st.code(record["command"], language="bash", wrap_lines=True)
    f1, matrix = record["test"]["per_class_f1"], record["test"].get("confusion_matrix")  # older records have no matrix
    st.bar_chart(pd.Series(f1, name="F1"), horizontal=True, height=240, x_label="F1", y_label="")
    if matrix:
        st.pyplot(figures.confusion_matrix(np.array(matrix), list(f1)))


@st.cache_data(ttl=30, show_spinner="Searching for runs")
def find_runs(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the runs below a folder with their records, newest first."""
    runs = []
    for path in sorted(folder.rglob(RECORD), key=lambda path: -path.stat().st_mtime):
        try:
            record = read_record(path, "name")
        except (OSError, ValueError):  # incomplete, or not a record of this project
            continue
        if all(isinstance(record.get(part, {}), dict) for part in ("val", "test")):
            runs.append((path.parent, record))
    return runs


def show_runs() -> None:
    """Show the runs in outputs/ and the report of the selected run."""
    st.subheader("Runs of this machine", anchor=False)
    runs = find_runs(OUTPUTS)
    if not runs:
        st.info(f"There is no finished run in `{OUTPUTS}/` yet: `python train.py` makes one.")
        return
    table = pd.DataFrame([run_row(record) for _, record in runs])
    columns = {"Run": st.column_config.Column(width="medium"), **dict.fromkeys(SCORES, PERCENT)}
    st.dataframe(table, hide_index=True, column_config=columns)
    labels = [f"{record['name']}, {folder.relative_to(OUTPUTS)}" for folder, record in runs]
    folder, record = runs[st.selectbox("Report of", range(len(runs)), format_func=labels.__getitem__)]
    if record.get("synthetic"):
        st.warning("Trained or measured on synthetic faces: these numbers say nothing about real faces.")
    st.caption(escaped(f"{folder}, {record.get('command', '')}"))
    figures = [(folder / name, title) for name, title in REPORT.items() if (folder / name).exists()]
    if not figures:
        st.info("This run has no report; trials of a sweep do not write one.")
        return
    for tab, (path, _) in zip(st.tabs([title for _, title in figures]), figures, strict=True):
        tab.image(path, width="stretch")


def run_row(record: dict[str, Any]) -> dict[str, Any]:
    """Return a run as a row of the table; missing values are None."""
    test = record.get("test", {})
    return {
        "Run": record["name"],
        "Data": record.get("data"),
        "Protocol": record.get("protocol"),
        **dict(
            zip(
                SCORES, (record.get("val", {}).get("accuracy"), test.get("accuracy"), test.get("macro_f1")), strict=True
            )
        ),
        "Minutes": record.get("minutes"),
    }
