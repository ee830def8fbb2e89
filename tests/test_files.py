"""Atomic writes and free names."""

import os
from pathlib import Path

import pytest

from fer_lightning.files import free_path, unique_folder, write_json


def test_a_file_is_synchronised_with_a_writable_handle(tmp_path: Path, monkeypatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    modes: list[int] = []
    monkeypatch.setattr("os.fsync", lambda handle: modes.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE))
    write_json(tmp_path / "record.json", {})
    assert modes[0] == os.O_RDWR  # Windows requires it


def test_a_taken_name_gets_a_number_before_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "run_lr=0.1"
    assert free_path(path, ".json") == tmp_path / "run_lr=0.1.json"
    (tmp_path / "run_lr=0.1.json").touch()
    (tmp_path / "run_lr=0.1_2.json").symlink_to("nowhere")
    assert free_path(path, ".json") == tmp_path / "run_lr=0.1_3.json"
    path.mkdir()
    assert free_path(path, first=1) == tmp_path / "run_lr=0.1_1"


def test_a_new_run_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    preferred = tmp_path / "today" / "10-00-00_run"
    preferred.mkdir(parents=True)
    folder = unique_folder(str(preferred))
    assert folder == f"{preferred}_2"
    assert unique_folder(str(preferred)) == folder  # Hydra resolves it again
    assert sorted(path.name for path in preferred.parent.iterdir()) == ["10-00-00_run", "10-00-00_run_2"]
