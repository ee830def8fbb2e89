"""docs/ARCHITECTURE.md: imports point one way, and inference needs no training framework."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fer_lightning.config import ROOT

PACKAGE = ROOT / "fer_lightning"

LAYERS = (
    {"labels", "files", "run_folder", "redaction", "_torchvision_compat"},
    {"config", "overrides"},
    {"data", "models", "inference"},
    {"training"},
    {"reporting"},
    {"run"},
    {"cli"},
    {"studies"},
    {"export"},
    {"app"},
    {"__init__", "__main__"},
)
"""From lowest to highest; a module imports from its own subpackage and from lower layers."""


def imported(file: Path) -> Iterator[str]:
    """Yields the dotted names of all modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield f"{node.module}.{node.names[0].name}" if node.module == "fer_lightning" else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def subpackage_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_subpackage_has_a_layer() -> None:
    subpackages = {subpackage_of(file) for file in FILES}
    assert subpackages == set().union(*LAYERS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_imports_point_down(file: Path) -> None:
    level = {name: height for height, names in enumerate(LAYERS) for name in names}
    subpackage = subpackage_of(file)
    for module in imported(file):
        first, _, rest = module.partition(".")
        if first == "fer_lightning" and not module.endswith("__version__"):
            other = rest.partition(".")[0]
            assert other == subpackage or level[other] < level[subpackage], f"{subpackage} imports {module}"


@pytest.mark.parametrize("name", ["bundle", "images", "predict"])
def test_prediction_needs_numpy_pillow_and_onnx_runtime_only(name: str) -> None:
    packages = {module.partition(".")[0] for module in imported(PACKAGE / "inference" / f"{name}.py")}
    assert packages - sys.stdlib_module_names <= {"fer_lightning", "numpy", "PIL", "onnxruntime"}


@pytest.mark.parametrize("file", sorted((PACKAGE / "inference").rglob("*.py")), ids=lambda file: file.stem)
def test_inference_needs_no_training_framework(file: Path) -> None:
    for module in imported(file):
        first = module.partition(".")[0]
        assert first not in ("hydra", "omegaconf", "pytorch_lightning", "mlflow", "optuna", "timm", "torchmetrics")
        assert first != "fer_lightning" or module.split(".")[1] in ("inference", "files")
