"""Records of measured runs as JSON, with the command, commit, versions and machine behind each."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_lightning.config import WITHOUT_EFFECT
from fer_lightning.files import atomic_write

if TYPE_CHECKING:
    import torch

RUN_ID = ".mlflow_run_id"
"""The file in a run's folder that says which MLflow run it is."""

SUPERSEDED = "superseded"
"""The folder beside published records that keeps those which a later measurement has replaced."""

PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "timm",
    "hydra-core",
    "omegaconf",
    "albumentations",
    "mlflow",
    "optuna",
    "numpy",
)

RECORDED_SCORES = (
    "n",
    "accuracy",
    "accuracy_interval",
    "macro_f1",
    "macro_f1_interval",
    "balanced_accuracy",
    "top2_accuracy",
    "loss",
    "ece",
    "per_class_f1",
)


def versions() -> dict[str, str]:
    """Python's version and those of the packages that a result can depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """The git commit of the code, with `-dirty` where tracked files differ from it; `unknown` outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/results", ":!/docs")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Processor, cores, threads of this process, memory in GiB and GPU of this machine.

    Args:
        device: What was worked on; a GPU beside another one is not named.
    """
    import torch

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    memory = None
    if hasattr(os, "sysconf"):
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1)
    on_gpu = torch.cuda.is_available() and (device is None or device.type == "cuda")
    gpu = torch.cuda.get_device_name(device) if on_gpu else None
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": memory,
        "gpu": gpu,
        "system": platform.platform(),
    }


def command(overrides: Sequence[str]) -> str:
    """The command that repeats a run, ready to paste."""
    return shlex.join(["python", "train.py", *overrides])


def verb_command(verb: str, arguments: Sequence[str]) -> str:
    """The command that repeats a verb, ready to paste, without its passwords."""
    return masked(shlex.join(["python", "-m", "fer_lightning", verb, *arguments]))


def settings_typed(overrides: Sequence[str], *besides: str) -> list[str]:
    """The words of a command line that decide what a training comes to, sorted.

    Left out is where things lie, how fast batches are made, the seed that is meant without one, and words that begin as
    `besides`.
    """
    left_out = (*WITHOUT_EFFECT, "hydra", "paths.", "data.path=", "data.votes_path=", *besides)
    return sorted(word for word in overrides if word != "seed=0" and not word.lstrip("+").startswith(left_out))


def without_folders(word: str) -> str:
    """`data.path=/home/me/fer2013.csv` as `data.path=fer2013.csv`: where files lie is nobody else's business."""
    key, equals, value = word.partition("=")
    return key + equals + ",".join(Path(path).name for path in value.split(","))


def masked(text: str) -> str:
    """`text` with `***` for the password in every URI."""
    text = re.sub(r"(://[^:/@\s]*):\S+@", r"\1:***@", text)
    return re.sub(r"([?&]\w*(?:password|token|odbc_connect)=)[^&\s]+", r"\1***", text, flags=re.IGNORECASE)


def mask_hydras_files(folder: Path, sweep_dir: Path | None) -> None:
    """Takes the passwords out of what Hydra keeps of a command line.

    Args:
        folder: The run's; `.hydra/` is in it.
        sweep_dir: Its multirun's, with `multirun.yaml`; None where it belongs to none.
    """
    for file in [*(folder / ".hydra").glob("*.yaml"), *(sweep_dir.glob("multirun.yaml") if sweep_dir else ())]:
        if (shown := masked(typed := file.read_text("utf-8"))) != typed:
            file.write_text(shown, "utf-8")


def recorded(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of one part of the data as a record holds them."""
    return {name: scores[name] for name in RECORDED_SCORES if name in scores}


def read_record(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON record that has these keys.

    Raises:
        ValueError: It is damaged, or lacks one.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is no record of a run")
    if missing := [key for key in keys if key not in record]:
        raise ValueError(f"{path} is no record of a run: it lacks {', '.join(missing)}")
    return record


def publish(path: Path, record: Mapping[str, Any]) -> Path:
    """Writes a record for everybody to read: its command without the folders in which data lie.

    A record that is there already goes to `SUPERSEDED`, named by its commit: what was measured once is never lost.
    """
    if path.is_file():
        before = read_record(path)
        stem, number = f"{path.stem}_{before.get('commit', 'unknown')[:12]}", 1
        place = path.parent / SUPERSEDED / f"{stem}.json"
        while place.exists():  # the same commit measured more than once
            number += 1
            place = place.with_name(f"{stem}_{number}.json")
        write_json(place, before)
    words = shlex.split(record["command"])
    shown = [without_folders(word) if word.startswith("data.") else word for word in words]
    return write_json(path, {**record, "command": shlex.join(shown)})


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes a JSON file, whole or not at all."""
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(content, indent=2) + "\n")
    return path
