"""Environment of a measurement: machine, package versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

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


def versions() -> dict[str, str]:
    """Return the version of Python and of the packages that can affect a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def read_commit() -> str:
    """Return the git commit of the code, with `-dirty` if tracked files were changed; `unknown` outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/results", ":!/docs")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


COMMIT = read_commit()
"""The commit of the code that this process imported; the working tree may change while it runs."""


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Return processor, cores, threads of this process, memory in GiB and GPU of this machine.

    Args:
        device: The device of the measurement; only its GPU is named.
    """
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
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


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """Return machine, versions and commit, as stored in records.

    Args:
        device: See `machine`.
    """
    return {"machine": machine(device), "versions": versions(), "commit": COMMIT}
