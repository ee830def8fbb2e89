"""Records of the leaks study."""

import json
import shlex
from pathlib import Path

from fer_lightning.data.sources.synthetic import draw_faces
from fer_lightning.studies.leaks.runner import SETTINGS
from helpers.runs import TINY_TRACKED

FINGERPRINT = draw_faces(200, image_size=24).fingerprint
"""The fingerprint of the faces of the tiny runs."""


def record(protocol: str, accuracy: float, *overrides: str) -> dict:
    part = {"n": 1000, "accuracy": accuracy, "accuracy_interval": [accuracy - 0.03, accuracy + 0.03]}
    given = overrides or TINY_TRACKED
    settings = [o for o in SETTINGS if o.split("=")[0] not in {option.split("=")[0] for option in given}]
    arguments = [*settings, *given, f"protocol={protocol}", "data.path=my/fer2013.csv"]
    return {
        "experiment": "sequential_cnn", "protocol": protocol, "leaky": protocol.startswith("leaky_"),
        "command": shlex.join(["python", "train.py", *arguments]), "images": {"train": 3000}, "train_accuracy": 0.99,
        "test": part, "test_deduplicated": part, "best_epoch": 3, "epochs": 4, "minutes": 5.0, "data": "fer2013",
        "data_fingerprint": FINGERPRINT, "commit": "c" * 40, "synthetic": False, "versions": {"torch": "2"},
        "machine": {"gpu": None, "cpu": "a CPU"},
    }  # fmt: skip


def write_records(root: Path, **accuracies: float) -> None:
    (root / "results" / "leaks").mkdir(parents=True, exist_ok=True)
    for protocol, accuracy in accuracies.items():
        (root / "results" / "leaks" / f"{protocol}.json").write_text(json.dumps(record(protocol, accuracy)))
