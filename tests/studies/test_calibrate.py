import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from fer_lightning import __main__ as entry
from fer_lightning.studies.calibrate import calibration_file
from fer_lightning.studies.trained import sha256


@pytest.fixture
def run(tiny_runs: list[Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_runs[0], tmp_path / "run"))


def test_calibrate_keeps_the_temperature_beside_the_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    assert entry.main(["calibrate", f"checkpoint={checkpoint}"]) == 0
    kept = json.loads(calibration_file(checkpoint, "identity").read_text())
    assert kept["temperature"] > 0
    assert kept["val_after"]["nll"] <= kept["val_before"]["nll"]
    assert kept["checkpoint_sha256"] == sha256(checkpoint)
    assert kept["evaluation"]["views"]["_target_"].endswith("identity")
    record = json.loads((run / "record.json").read_text())
    assert kept["test_before"]["ece"] == pytest.approx(record["test"]["ece"], abs=1e-5)
    assert kept["test_before"]["nll"] == pytest.approx(record["test"]["loss"], abs=1e-5)
    assert Image.open(run / "checkpoints" / "best.identity.calibration.png").size > (900, 600)
    assert f"{kept['temperature']:.3f}" in capsys.readouterr().out


def test_calibrate_takes_a_run_and_other_views(run: Path) -> None:
    assert entry.main(["calibrate", f"checkpoint={run}", "eval=flip"]) == 0
    kept = json.loads((run / "checkpoints" / "best.flip.calibration.json").read_text())
    assert kept["evaluation"]["views"]["_target_"].endswith("flip")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["checkpoint=nowhere.ckpt"], "nowhere.ckpt"),
        (["eval=flip"], "checkpoint="),
        (["checkpoint=nowhere.ckpt", "eval.split=val"], "eval.split=val would change nothing: a temperature"),
    ],
)
def test_wrong_use_ends_with_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["calibrate", *words]) == 2
    assert said in capsys.readouterr().err
