import json
from pathlib import Path

from fer_lightning.overrides import train_command
from fer_lightning.reporting import records


def test_a_published_command_contains_no_folders(tmp_path: Path) -> None:
    overrides = ["experiment=vggnet", "data.path=/home/me/fer2013.csv", "data.votes_path=/home/me/new votes.csv"]
    records.publish(tmp_path / "row.json", {"command": train_command(overrides), "commit": "c" * 40})
    written = json.loads((tmp_path / "row.json").read_text())["command"]
    assert written == "python train.py experiment=vggnet data.path=fer2013.csv 'data.votes_path=new votes.csv'"


def test_a_record_is_superseded_by_another_measurement_but_not_by_itself(tmp_path: Path) -> None:
    path, archive = tmp_path / "row_seed0.json", tmp_path / records.SUPERSEDED
    record = {"command": "python train.py", "commit": "c" * 40, "val": {"loss": 0.1}, "test": {"interval": (0.1, 0.2)}}
    records.publish(path, record)
    records.publish(path, record | {"minutes": 2})  # the same run, resumed after it had published
    assert json.loads(path.read_text())["minutes"] == 2
    assert not archive.exists()
    records.publish(path, record | {"test": {"interval": (0.1, 0.3)}})
    records.publish(path, record | {"commit": "d" * 40})
    assert len(list(archive.glob("row_seed0_cccccccccccc*.json"))) == 2
