"""A few training steps on the real FER2013, if available."""

import json
from pathlib import Path

from fer_lightning.run.train import train


def test_custom_cnn_trains_on_fer2013(composed, tmp_path: Path, real_data: Path) -> None:
    archive = tmp_path / "fer2013-kaggle.zip"
    archive.symlink_to(real_data / archive.name)  # the cache is written beside the link
    train(
        composed(
            "experiment=custom_cnn", f"data.path={archive}", "trainer.max_epochs=1",
            "trainer.limit_train_batches=3", "trainer.limit_val_batches=3", "tracking=none", "eval.bootstrap=50",
            f"paths.results_dir={tmp_path}/results",
        )
    )  # fmt: skip
    [published] = (tmp_path / "results").iterdir()
    record = json.loads(published.read_text())
    assert record["data"] == "fer2013_kaggle"
    assert record["protocol"] == "official"
    assert record["test"]["n"] == 3589
    assert record["test_deduplicated"]["n"] == 3275
    assert len(record["test"]["accuracy_interval"]) == 2
    assert record["kaggle_test"]["n"] == 7178
