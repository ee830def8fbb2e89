"""`python -m fer_lightning audit`: finds duplicates, images without a face and probable label errors in a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from fer_lightning.cli.command_line import compose_config, top_level
from fer_lightning.cli.verb import run_verb
from fer_lightning.config import CONF, ROOT, build, to_container
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.near_duplicates import THRESHOLD
from fer_lightning.files import check_writable
from fer_lightning.overrides import strip_folders, verb_command
from fer_lightning.reporting.environment import COMMIT, versions
from fer_lightning.studies.audit.duplicate_effect import accuracy_by_copies
from fer_lightning.studies.audit.findings import audit, out_of_fold
from fer_lightning.studies.audit.report import accuracy_table, table, write_report
from fer_lightning.studies.measurement import Measurement

HELP = """usage: python -m fer_lightning audit [write] [predictions=FOLDER] [measured=RUN,RUN] [key=value ...]

Finds exact and near copies, flat images, images without a face, and probable label errors.

  data=fer2013 data.path=fer2013.csv       the data set (conf/data); by default that of data=auto
  data.votes_path=fer2013new.csv           FER+ votes: images voted to show no face or another emotion
  predictions=FOLDER                       runs evaluated on images that they were not trained on: label errors
  measured=RUN,RUN                         runs evaluated on PrivateTest: the effect of copies on their accuracy

These commands create runs for predictions= that cover Training, PublicTest and PrivateTest:

  python train.py -m experiment=ours_mobile protocol=kfold protocol.fold=0,1,2,3,4 eval.split=val
  python -m fer_lightning evaluate checkpoint=FOLDER/0 eval.split=test

FOLDER is printed by the first command: outputs/DATE/TIME_multirun_ours_mobile.

Writes outputs/audit_NAME/: report.md with figures, csv lists, audit.json. `write` also writes docs/AUDIT.md.
"""


def _read(overrides: Sequence[str]) -> FaceArrays:
    """Read the data set that conf/data and the overrides select."""
    faces: FaceArrays = build(to_container(compose_config(CONF, overrides).data.source))
    return faces


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand and return its exit status."""

    def act(given: Mapping[str, str], overrides: Sequence[str]) -> None:
        runs = [Measurement.read(Path(folder)) for folder in given.get("measured", "").split(",") if folder]
        faces = _read(overrides)
        predicted = out_of_fold(Path(given["predictions"]), faces) if "predictions" in given else None
        if "write" in arguments and faces.is_synthetic:
            raise ValueError("docs/AUDIT.md is only for real faces, and these are synthetic: set data.path=fer2013.csv")
        folder = Path("outputs") / f"audit_{faces.name}"
        check_writable(folder, "outputs")
        found = audit(faces, predicted)
        accuracies = accuracy_by_copies(found, runs)
        record = {
            "command": verb_command("audit", [strip_folders(word) for word in arguments]),
            "data": faces.name,
            "data_fingerprint": faces.fingerprint,
            "commit": COMMIT,
            "versions": versions(),
            "near_copy_correlation": THRESHOLD,
            "counts": found.counts(),
            "accuracy_by_copies": accuracies,
        }
        write_report(folder, found, record, ROOT / "docs" if "write" in arguments else None)
        console = Console()
        console.print(table(found))
        if accuracies:
            console.print(accuracy_table(accuracies))
        console.print(f"report: {folder / 'report.md'}", markup=False, soft_wrap=True)

    overrides = [argument for argument in arguments if argument != "write"]
    without_effect = {
        key: "an audit reads only the data" for key in top_level(CONF) if key not in ("data", "model", "paths")
    }
    return run_verb("audit", HELP, act, overrides, ("predictions", "measured"), without_effect)
