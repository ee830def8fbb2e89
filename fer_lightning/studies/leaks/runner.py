"""Trains each protocol without a record and collects the records."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fer_lightning.config import CONF, ROOT
from fer_lightning.files import free_path
from fer_lightning.overrides import merge_overrides, overrides_of
from fer_lightning.reporting.records import publish, read_record
from fer_lightning.run_folder import RECORD
from fer_lightning.studies.leaks.records import PROTOCOLS, PUBLISHED, read_records, settings_of

RUNS = Path("outputs") / "leaks"

COLLECTED = ".collected"
"""Marks a run whose record went to results/leaks: if it is not there any more, somebody deleted it."""

SETTINGS = ("experiment=sequential_cnn", "augmentation=none", "trainer.max_epochs=20", "tracking=none")


def folder_of(overrides: Sequence[str]) -> Path:
    """Return the folder for runs with these settings and protocols; it has a subfolder per protocol."""
    options = [(CONF / "protocol" / f"{protocol}.yaml").read_text("utf-8") for protocol in PROTOCOLS]
    settings = "\n".join([*settings_of(overrides), *options])
    return RUNS / hashlib.sha256(settings.encode()).hexdigest()[:8]


def run(overrides: Sequence[str], root: Path = ROOT) -> int:
    """Train under every protocol without a record, in one process.

    Args:
        overrides: Hydra overrides in addition to `SETTINGS`.
        root: The folder that contains results/leaks.

    Returns:
        The exit status of the training.

    Raises:
        ValueError: Existing records were run with other settings.
    """
    overrides = merge_overrides(SETTINGS, overrides)
    collect(overrides, root)
    records, wanted = read_records(root), settings_of(overrides)
    for name, record in records.items():
        earlier = settings_of(overrides_of(record["command"]))
        if earlier != wanted:
            raise ValueError(
                f"results/leaks/{name}.json was run with {' '.join(earlier)}, not {' '.join(wanted)}; "
                "use those settings, or delete results/leaks to start again"
            )
    missing = [protocol for protocol in PROTOCOLS if protocol not in records]
    if not missing:
        return 0
    for protocol in missing:
        move_collected(folder_of(overrides) / protocol)
    command = [sys.executable, str(ROOT / "train.py"), "-m", *overrides, f"protocol={','.join(missing)}"]
    command += [f"hydra.sweep.dir={folder_of(overrides)}", "hydra.sweep.subdir=${hydra.runtime.choices.protocol}"]
    training = subprocess.Popen([*command, "resume=auto"])
    earlier_handler = signal.signal(signal.SIGTERM, lambda *_: training.terminate())
    try:
        return training.wait()
    finally:  # after Ctrl-C, which the training received too
        training.wait()
        signal.signal(signal.SIGTERM, earlier_handler)
        collect(overrides, root)


def collect(overrides: Sequence[str], root: Path = ROOT) -> None:
    """Copy the records of finished runs with these settings into results/leaks, once, also after an interruption."""
    for protocol in PROTOCOLS:
        folder, published = folder_of(overrides) / protocol, root / PUBLISHED / f"{protocol}.json"
        if (folder / RECORD).is_file() and not (folder / COLLECTED).exists():
            if not published.exists():
                publish(published, read_record(folder / RECORD, "command"))
            (folder / COLLECTED).touch()


def move_collected(folder: Path) -> None:
    """Rename the folder of a run whose published record was deleted, which `resume=auto` would not train again."""
    if (folder / COLLECTED).exists():
        folder.rename(free_path(folder, first=1))
