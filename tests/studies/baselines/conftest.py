import json
from pathlib import Path

import pytest
from helpers.records import part

from fer_lightning.studies.baselines import page


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with one measured row, `measured`, and one that was not run, `waiting`."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    for name, claim in {"measured": "64%", "waiting": "99% (no protocol)"}.items():
        source = "# Source    a paper\n#           of two lines"
        text = f"# @package _global_\n{source}\n# Claim     {claim}\n# Needs     a GPU\n"
        (tmp_path / "conf" / "experiment" / f"{name}.yaml").write_text(text)
    record = {
        "experiment": "measured", "seed": 0, "test": part(0.625), "test_deduplicated": part(0.61),
        "val": {"accuracy": 0.6}, "params": 304423,
        "minutes": 41.2, "machine": {"gpu": None, "cores": 2, "cpu": "a CPU"},
        "command": "python train.py x=1 'resume=a b/last.ckpt'",
        "best_epoch": 9, "epochs": 10, "precision": "32-true", "data": "fer2013", "data_fingerprint": "f" * 64,
        "protocol": "official", "commit": "c" * 40, "versions": {"torch": "2"},
        "evaluation": {"views": {"_target_": "fer_lightning.models.tta.flip"}},
    }  # fmt: skip
    (tmp_path / "results" / "measured_seed0.json").write_text(json.dumps(record))
    (tmp_path / "README.md").write_text(f"head\n{page.MARKS[0]}\nold\n{page.MARKS[1]}\ntail\n")
    return tmp_path
