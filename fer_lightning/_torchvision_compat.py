"""Lets a torchvision built for CUDA import beside a CPU-only torch.

PyPI's torchvision links CUDA libraries. Beside a CPU-only torch its operators do not load, and `import torchvision`
dies with "operator torchvision::nms does not exist", taking timm, torchmetrics and Lightning with it. This project
uses none of those operators, so declaring the two that are looked up at import is enough. Where the builds match,
nothing is changed.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_kept_alive: list[Any] = []  # a torch.library.Library undoes its declarations when it is collected


class _BeforeTorchvision(MetaPathFinder):
    """Runs once, at the first `import torchvision`, so that this package itself need not import torch."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec("torchvision")
            if spec is not None and spec.origin is not None:
                _declare_missing_operators(Path(spec.origin).parent)
        return None


def _declare_missing_operators(torchvision_folder: Path) -> None:
    import torch

    try:
        for library in torchvision_folder.glob("_C*.so"):
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError:
        operators = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        _kept_alive.append(operators)


def install() -> None:
    """Arrange the check for the first import of torchvision; does nothing if it is imported already."""
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _BeforeTorchvision())
