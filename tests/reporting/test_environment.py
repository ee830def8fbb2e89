import re
import subprocess
from pathlib import Path

import pytest

from fer_lightning.reporting import environment


def test_the_commit_is_marked_dirty_if_the_code_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, results = tmp_path / "package", tmp_path / "results"
    package.mkdir()
    results.mkdir()

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    git("init", "--quiet")
    (package / "records.py").write_text("1")
    (results / "row.json").write_text("1")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    monkeypatch.setattr(environment, "__file__", str(package / "records.py"))
    commit = environment.read_commit()
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (results / "row.json").write_text("2")  # written by a run
    assert environment.read_commit() == commit
    (package / "records.py").write_text("2")
    assert environment.read_commit() == f"{commit}-dirty"
