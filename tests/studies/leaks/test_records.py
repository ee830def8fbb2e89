import json
from pathlib import Path

import pytest
from helpers.leak_records import record, write_records

from fer_lightning.config import ROOT
from fer_lightning.studies.leaks import runner
from fer_lightning.studies.leaks.page import write
from fer_lightning.studies.leaks.records import PROTOCOLS, read_records


def test_records_of_different_data_are_refused(folder: Path) -> None:
    write_records(folder, official=0.57, leaky_pooled=0.58)
    other = {**record("leaky_selected", 0.6), "data_fingerprint": "0" * 64}
    (folder / "results" / "leaks" / "leaky_selected.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="were run on different data"):
        read_records(folder)


def test_records_of_other_settings_are_refused(folder: Path) -> None:
    write_records(folder, official=0.5)
    with pytest.raises(ValueError, match=r"official\.json was run with .*max_epochs=1.*delete results/leaks"):
        runner.run(["trainer.max_epochs=9"], folder)
    other = record("leaky_pooled", 0.5, "trainer.max_epochs=9")
    (folder / "results" / "leaks" / "leaky_pooled.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"leaky_pooled\.json was run with .*max_epochs=9"):
        write(folder)
    with pytest.raises(ValueError, match="no record"):
        write(folder / "elsewhere")


def test_every_leaky_protocol_is_compared() -> None:
    options = {path.stem for path in (ROOT / "conf" / "protocol").glob("leaky_*.yaml")}
    assert options == {name for name in PROTOCOLS if name.startswith("leaky_")}
