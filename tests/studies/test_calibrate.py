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


def test_the_temperature_is_saved_beside_the_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    assert entry.main(["calibrate", f"checkpoint={checkpoint}"]) == 0
    saved = json.loads(calibration_file(checkpoint, "identity").read_text())
    assert saved["temperature"] > 0
    assert saved["val_after"]["nll"] <= saved["val_before"]["nll"]
    assert saved["checkpoint_sha256"] == sha256(checkpoint)
    assert saved["evaluation"]["views"]["_target_"].endswith("identity")
    record = json.loads((run / "record.json").read_text())
    assert saved["test_before"]["ece"] == pytest.approx(record["test"]["ece"], abs=1e-5)
    assert saved["test_before"]["nll"] == pytest.approx(record["test"]["loss"], abs=1e-5)
    assert Image.open(run / "checkpoints" / "best.identity.calibration.png").size > (900, 600)
    assert f"{saved['temperature']:.3f}" in capsys.readouterr().out


def test_calibrate_accepts_a_run_and_other_views(run: Path) -> None:
    assert entry.main(["calibrate", f"checkpoint={run}", "eval=flip"]) == 0
    saved = json.loads((run / "checkpoints" / "best.flip.calibration.json").read_text())
    assert saved["evaluation"]["views"]["_target_"].endswith("flip")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["checkpoint=nowhere.ckpt"], "nowhere.ckpt"),
        (["eval=flip"], "checkpoint="),
        (["checkpoint=nowhere.ckpt", "eval.split=val"], "eval.split=val would have no effect: the temperature"),
    ],
)
def test_wrong_arguments_give_a_message(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["calibrate", *arguments]) == 2
    assert expected in capsys.readouterr().err
