"""docs/ARCHITECTURE.md: imports point one way, and inference needs no training framework."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

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
"""From below to above; a module imports from its own room and from layers below."""


def imported(file: Path) -> Iterator[str]:
    """The dotted names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield f"{node.module}.{node.names[0].name}" if node.module == "fer_lightning" else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room_of(file: Path) -> str:
    below = file.relative_to(PACKAGE).parts
    return below[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_its_layer() -> None:
    rooms = {room_of(file) for file in FILES}
    assert rooms == set().union(*LAYERS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_imports_point_down(file: Path) -> None:
    height = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
    room = room_of(file)
    for module in imported(file):
        first, _, rest = module.partition(".")
        if first == "fer_lightning" and not module.endswith("__version__"):
            other = rest.partition(".")[0]
            assert other == room or height[other] < height[room], f"{room} imports {module}"


@pytest.mark.parametrize("file", sorted((PACKAGE / "inference").rglob("*.py")), ids=lambda file: file.stem)
def test_inference_needs_no_training_framework(file: Path) -> None:
    for module in imported(file):
        first = module.partition(".")[0]
        assert first not in ("hydra", "omegaconf", "pytorch_lightning", "mlflow", "optuna", "timm", "torchmetrics")
        assert first != "fer_lightning" or module.split(".")[1] in ("inference", "files")
