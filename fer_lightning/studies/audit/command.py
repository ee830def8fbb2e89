"""`python -m fer_lightning audit`: what is wrong with a data set: copies, no faces, probable label errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from fer_lightning.cli.command_line import composed, top_level
from fer_lightning.cli.verb import run_verb
from fer_lightning.config import CONF, ROOT, build, plain
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.near_duplicates import THRESHOLD
from fer_lightning.overrides import verb_command, without_folders
from fer_lightning.reporting.environment import commit, versions
from fer_lightning.studies.audit.duplicate_effect import copies_worth
from fer_lightning.studies.audit.findings import audit, out_of_fold
from fer_lightning.studies.audit.report import table, worth_table, write_report
from fer_lightning.studies.compare import Measured

HELP = """usage: python -m fer_lightning audit [write] [predictions=FOLDER] [measured=RUN,RUN] [key=value ...]

Looks for exact and near copies, flat pictures, pictures that are no faces, and probable label errors.

  data=fer2013 data.path=fer2013.csv       the data set (conf/data); alone: what data=auto finds
  data.votes_path=fer2013new.csv           FER+ votes: pictures that taggers call no face or another emotion
  predictions=FOLDER                       runs whose nets did not train on what they measured: probable label errors
  measured=RUN,RUN                         runs that measured PrivateTest: what copies add to their accuracy

Runs for predictions= of all of Training and PublicTest, and of the same nets on PrivateTest, come from

  python train.py -m experiment=ours_mobile protocol=kfold protocol.fold=0,1,2,3,4 eval.split=val
  python -m fer_lightning evaluate checkpoint=FOLDER/0 eval.split=test

FOLDER is what the first of them says: outputs/DATE/TIME_multirun_ours_mobile.

Writes outputs/audit_NAME/: report.md with pictures, lists as csv, audit.json. `write` also writes docs/AUDIT.md.
"""


def _read(overrides: Sequence[str]) -> FaceArrays:
    """The data set that conf/data and the overrides choose."""
    faces: FaceArrays = build(plain(composed(CONF, overrides).data.source))
    return faces


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""

    def act(given: Mapping[str, str], overrides: Sequence[str]) -> None:
        runs = [Measured.read(Path(folder)) for folder in given.get("measured", "").split(",") if folder]
        faces = _read(overrides)
        predicted = out_of_fold(Path(given["predictions"]), faces) if "predictions" in given else None
        if "write" in arguments and faces.is_synthetic:
            raise ValueError("docs/AUDIT.md is of real faces, and these are drawn: name data.path=fer2013.csv")
        found = audit(faces, predicted)
        worth = copies_worth(found, runs)
        record = {
            "command": verb_command("audit", [without_folders(word) for word in arguments]),
            "data": faces.name,
            "data_fingerprint": faces.fingerprint,
            "commit": commit(),
            "versions": versions(),
            "near_copy_correlation": THRESHOLD,
            "counts": found.counts(),
            "copies_worth": worth,
        }
        folder = Path("outputs") / f"audit_{faces.name}"
        write_report(folder, found, record, ROOT / "docs" if "write" in arguments else None)
        console = Console()
        console.print(table(found))
        if worth:
            console.print(worth_table(worth))
        console.print(f"report: {folder / 'report.md'}", soft_wrap=True)

    words = [word for word in arguments if word != "write"]
    of_runs = {
        key: "an audit looks at the data alone" for key in top_level(CONF) if key not in ("data", "model", "paths")
    }
    return run_verb("audit", HELP, act, words, ("predictions", "measured"), of_runs)
