from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fer_lightning.config import ROOT
from fer_lightning.data.sources.readers import read_faces


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/harness.py, imported like in the scripts beside it."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import harness

    yield harness
    for name in ("harness", "report"):
        del sys.modules[name]


def test_the_alternatives_take_turns_at_going_first(harness: ModuleType) -> None:
    called: list[str] = []
    sides = {name: lambda name=name: called.append(name) or len(called) for name in "abc"}
    values = harness.interleave(sides, rounds=2, warm_up=1)
    assert "".join(called) == "abcbcacab"
    assert values == {"a": [6, 8], "b": [4, 9], "c": [5, 7]}


def test_a_result_is_saved_and_its_table_printed(
    harness: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.finish("peak_memory", "How much?\n\nMore.", {"peak_gib": 0.944}, tmp_path / "out.json")
    saved = json.loads((tmp_path / "out.json").read_text())
    assert list(saved) == ["question", "peak_gib", "machine", "versions", "commit"]
    assert saved["question"] == "How much?"
    shown = capsys.readouterr().out
    assert "How much?" in shown
    assert "peak GiB" in shown
    assert "0.94" in shown


def test_a_command_is_measured_in_a_subprocess(harness: ModuleType, tmp_path: Path) -> None:
    code = "import os, sys, time; bytearray(3 * 10**8); time.sleep(0.1); sys.exit(os.environ.get('WRONG'))"
    seconds, peak = harness.run_subprocess([sys.executable, "-c", code], tmp_path)
    assert seconds > 0.1
    assert peak > 280
    with pytest.raises(SystemExit, match="ended with 1\nbadly"):
        harness.run_subprocess([sys.executable, "-c", code], tmp_path, WRONG="badly")


def test_noise_is_read_as_fer2013(harness: ModuleType, tmp_path: Path) -> None:
    harness.write_noise(tmp_path / "fer.csv", ["Training", "PublicTest", "PrivateTest"] * 3, distinct=2)
    faces = read_faces(tmp_path / "fer.csv", cache=False)
    assert len(faces) == 9
    assert (faces.images[0] == faces.images[2]).all()
    assert (faces.images[0] != faces.images[1]).any()
