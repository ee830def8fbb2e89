import json
from pathlib import Path

from fer_lightning.overrides import train_command
from fer_lightning.reporting import records


def test_a_published_command_contains_no_folders(tmp_path: Path) -> None:
    overrides = ["experiment=vggnet", "data.path=/home/me/fer2013.csv", "data.votes_path=/home/me/new votes.csv"]
    records.publish(tmp_path / "row.json", {"command": train_command(overrides), "commit": "c" * 40})
    written = json.loads((tmp_path / "row.json").read_text())["command"]
    assert written == "python train.py experiment=vggnet data.path=fer2013.csv 'data.votes_path=new votes.csv'"
