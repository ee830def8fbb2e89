"""Text files are UTF-8 on every system; Python's default is the locale's encoding, on Windows often cp1252."""

import ast
import re

import pytest

from fer_lightning.config import ROOT

FILES = [
    *(ROOT / "train.py", *(ROOT / "fer_lightning").rglob("*.py")),
    *(*(ROOT / "hydra_plugins").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")),
]
NEEDED = {"read_text": 1, "write_text": 2}
"""Positional arguments of a call that gives the encoding."""


def lacks_encoding(call: ast.Call) -> bool:
    """Whether a call opens a text file in the locale's encoding."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if name in NEEDED:
        return len(call.args) < NEEDED[name]
    if name == "open" and isinstance(call.func, ast.Name):
        mode = call.args[1].value if len(call.args) > 1 else "r"
    elif name in ("open", "TemporaryFile", "NamedTemporaryFile") and call.args:
        mode = getattr(call.args[0], "value", "b")
    elif name == "open" and any(keyword.arg == "newline" for keyword in call.keywords):
        mode = "r"
    else:
        return False
    return bool(re.fullmatch("[rwaxt+]+", str(mode)))


@pytest.mark.parametrize(
    "source",
    ["p.read_text()", "p.write_text(x)", "open(p)", "open(p, 'w')", "p.open('a')", "p.open(newline='')"],
)
def test_a_missing_encoding_is_found(source: str) -> None:
    assert lacks_encoding(ast.parse(source, mode="eval").body)


def test_every_text_file_is_opened_as_utf_8() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and lacks_encoding(node)
    ]
    assert found == []
