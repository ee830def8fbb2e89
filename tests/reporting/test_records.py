import json
import re
import subprocess
from pathlib import Path

import pytest

from fer_lightning.reporting import records


def test_a_commit_says_whether_the_code_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, results = tmp_path / "package", tmp_path / "results"
    package.mkdir()
    results.mkdir()

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    git("init", "--quiet")
    (package / "records.py").write_text("1")
    (results / "row.json").write_text("1")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    monkeypatch.setattr(records, "__file__", str(package / "records.py"))
    commit = records.commit()
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (results / "row.json").write_text("2")  # what a run writes itself
    assert records.commit() == commit
    (package / "records.py").write_text("2")
    assert records.commit() == f"{commit}-dirty"


def test_a_published_command_says_nothing_of_folders(tmp_path: Path) -> None:
    words = ["experiment=vggnet", "data.path=/home/me/fer2013.csv", "data.votes_path=/home/me/new votes.csv"]
    records.publish(tmp_path / "row.json", {"command": records.command(words), "commit": "c" * 40})
    written = json.loads((tmp_path / "row.json").read_text())["command"]
    assert written == "python train.py experiment=vggnet data.path=fer2013.csv 'data.votes_path=new votes.csv'"


def test_words_that_change_no_result_make_no_other_training() -> None:
    typed = ["experiment=custom_cnn", "optimizer.lr=1e-3"]
    besides = ["seed=0", "data.workers=2", "data.path=/x/fer2013.csv", "tracking=none", "resume=auto", "paths.a=b"]
    assert records.settings_typed([*besides, "+data.workers=2", *typed]) == typed
    assert records.settings_typed([*typed, "seed=1"]) != records.settings_typed(typed)
