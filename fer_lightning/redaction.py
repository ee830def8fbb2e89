"""Removes passwords from text that is printed, logged or saved."""

from __future__ import annotations

import re
from pathlib import Path


def redact(text: str) -> str:
    """Replace the password in every URI with `***`."""
    text = re.sub(r"(://[^:/@\s]*):\S+@", r"\1:***@", text)
    return re.sub(r"([?&]\w*(?:password|token|odbc_connect)=)[^&\s]+", r"\1***", text, flags=re.IGNORECASE)


def redact_hydra_files(folder: Path, sweep_dir: Path | None) -> None:
    """Redact the command line that Hydra saves.

    Args:
        folder: The run's folder, which holds `.hydra/`.
        sweep_dir: The folder of its multirun, which holds `multirun.yaml`; None outside a multirun.
    """
    for file in [*(folder / ".hydra").glob("*.yaml"), *(sweep_dir.glob("multirun.yaml") if sweep_dir else ())]:
        if (redacted := redact(text := file.read_text("utf-8"))) != text:
            file.write_text(redacted, "utf-8")
