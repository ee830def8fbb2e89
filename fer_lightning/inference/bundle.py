"""Bundles: an exported network and its description in one folder or zip."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

DESCRIPTION: Final = "bundle.json"
CARD: Final = "MODEL_CARD.md"
FORMAT: Final = 1
"""Version of the layout, stored in `bundle.json` under `format`."""

BUNDLES_FOLDER: Final = Path(__file__).parent / "bundles"
"""Contains one folder for each bundle that comes with this package."""

MAX_TEXT_BYTES: Final = 1_000_000
MAX_GRAPH_BYTES: Final = 500_000_000


class BundleError(ValueError):
    """A bundle is missing or invalid; the message names the bundle and the remedy."""


@dataclass(frozen=True)
class Bundle:
    """The description of an exported network; it contains no code, and graphs are verified by their sha256.

    Attributes:
        name: Display name.
        classes: Class names in the order of the graph's outputs.
        input_size: Height and width of the input in pixels.
        channels: 1 (gray) or 3 (RGB).
        graphs: Kinds of graphs in the bundle: `float`, optionally `int8`.
        scores: Scores of the float graph by part of the data (`test`, `test_deduplicated`): accuracy, its 95% interval,
            macro-F1, F1 of each class and so on, as returned by `reporting.records.recorded_scores`.
        card: The model card in Markdown.
        description: The content of `bundle.json`.
        path: Folder or zip.
    """

    name: str
    classes: tuple[str, ...]
    input_size: int
    channels: int
    graphs: tuple[str, ...]
    scores: Mapping[str, Any]
    card: str
    description: Mapping[str, Any]
    path: Path

    @classmethod
    def load(cls, name_or_path: str | Path = "default") -> Bundle:
        """Load a bundled model by its name, or any bundle by the path of its folder or zip.

        Raises:
            BundleError: The bundle does not exist, is damaged or has another format version.
        """
        path = _resolve(name_or_path)
        with _reader(path) as read:
            try:
                description = json.loads(read(DESCRIPTION, MAX_TEXT_BYTES))
                card = read(CARD, MAX_TEXT_BYTES).decode()
            except BundleError:
                raise
            except (ValueError, RecursionError) as error:
                raise BundleError(f"{path}: {DESCRIPTION} or {CARD} is damaged ({error})") from None
        problem = _problem(description)
        if problem:
            raise BundleError(f"{path}: {DESCRIPTION} {problem}")
        return cls(
            name=description["name"],
            classes=tuple(description["classes"]),
            input_size=description["input"]["size"],
            channels=description["input"]["channels"],
            graphs=tuple(description["graphs"]),
            scores=description.get("scores", {}),
            card=card,
            description=description,
            path=path,
        )

    def read_graph(self, kind: str = "float") -> bytes:
        """Return the content of an ONNX file, verified by its sha256.

        Raises:
            BundleError: The bundle has no such graph, or the file differs from the exported one.
        """
        if kind not in self.graphs:
            raise BundleError(f"{self.path} has no {kind} graph; it has {', '.join(self.graphs)}")
        graph = self.description["graphs"][kind]
        with _reader(self.path) as read:
            content = read(graph["file"], MAX_GRAPH_BYTES)
        if hashlib.sha256(content).hexdigest() != graph["sha256"]:
            raise BundleError(
                f"{self.path}: {graph['file']} is not the file that was exported (its sha256 differs): copy it again"
            )
        return content


def bundled_models() -> list[str]:
    """Return the names of the models that come with this package."""
    return sorted(found.parent.name for found in BUNDLES_FOLDER.glob(f"*/{DESCRIPTION}"))


def _resolve(name_or_path: str | Path) -> Path:
    if str(name_or_path) in bundled_models():
        return BUNDLES_FOLDER / name_or_path
    path = Path(os.path.expanduser(name_or_path))
    if path.exists():
        return path
    names = bundled_models()
    hint = f"bundled models: {', '.join(names)}" if names else "no model is bundled with this installation"
    raise BundleError(
        f"there is no model {str(name_or_path)!r}, neither bundled nor as the folder or zip of a bundle; {hint}. "
        "`python -m fer_lightning export checkpoint=RUN out=FOLDER` creates a bundle"
    )


Read = Callable[[str, int], bytes]
"""Reads a file of a bundle, given its name and a size limit in bytes."""


@contextmanager
def _reader(path: Path) -> Iterator[Read]:
    """Open a folder or zip. Zips are never unpacked to disk, so no member can escape from a folder."""
    try:
        if path.is_dir():

            def read_file(name: str, limit: int) -> bytes:
                if not (path / name).resolve().is_relative_to(path.resolve()):
                    raise BundleError(
                        f"{path}: {name} is a link to a file outside of the bundle; replace it with the file"
                    )
                return _read_bounded(path / name, (path / name).open("rb"), limit)

            yield read_file
            return
        with zipfile.ZipFile(path) as archive:
            members = {PurePosixPath(name.replace("\\", "/")): name for name in archive.namelist()}
            for member in members:
                if member.is_absolute() or ".." in member.parts:
                    raise BundleError(
                        f"{path}: its member {str(member)!r} has a path outside of the bundle; export it again"
                    )
            roots = [member.parent for member in members if member.name == DESCRIPTION]
            if len(roots) != 1:
                raise BundleError(
                    f"{path} is not a bundle: it must contain one {DESCRIPTION}, it contains {len(roots)}"
                )

            def read(name: str, limit: int) -> bytes:
                if roots[0] / name not in members:
                    raise BundleError(f"{path} is not a bundle: {name} is missing")
                return _read_bounded(path / name, archive.open(members[roots[0] / name]), limit)

            yield read
    except FileNotFoundError as error:
        hint = ""
        if (path / "bundle" / DESCRIPTION).is_file():
            hint = f"; the bundle of this run is {path / 'bundle'}"
        elif (path / "checkpoints").is_dir():
            hint = f"; `python -m fer_lightning export checkpoint={path}` creates one from this run"
        raise BundleError(f"{path} is not a bundle: {Path(error.filename).name} is missing{hint}") from None
    except zipfile.BadZipFile:
        raise BundleError(f"{path} is not a bundle: it is neither a folder nor an intact zip") from None
    except BundleError:
        raise
    except Exception as error:  # damaged or encrypted zips cause all kinds of errors
        raise BundleError(f"{path} cannot be read ({error})") from None


def _read_bounded(path: Path, file: Any, limit: int) -> bytes:
    with file:
        content: bytes = file.read(limit + 1)
    if len(content) > limit:
        raise BundleError(f"{path} has more than {limit:,} bytes, the limit")
    return content


def _problem(description: Any) -> str | None:
    """Describe the first problem in the content of a `bundle.json`; None if it is valid."""
    if not isinstance(description, dict) or "format" not in description:
        return "does not describe a bundle"
    if description["format"] != FORMAT:
        return f"has format {description['format']!r}, not {FORMAT}: update fer_lightning or export the model again"
    classes, model_input, graphs = (description.get(key) for key in ("classes", "input", "graphs"))
    if not isinstance(description.get("name"), str):
        return "has no name"
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        return "has no class names"
    if len(set(classes)) < len(classes):
        return "has a duplicate class name"
    if not isinstance(model_input, dict) or model_input.get("channels") not in (1, 3):
        return "must have 1 or 3 as input.channels"
    if not isinstance(model_input.get("size"), int) or not 1 <= model_input["size"] <= 1024:
        return "must have an integer from 1 to 1024 as input.size"
    if not isinstance(graphs, dict) or not graphs:
        return "has no graph"
    for key in ("scores", "training"):
        if not isinstance(description.get(key, {}), dict):
            return f"must have a mapping as {key}"
    if not all(isinstance(row, dict) for row in description.get("scores", {}).values()):
        return "must have a mapping for each part of scores"
    for graph in graphs.values():
        if not isinstance(graph, dict) or not all(isinstance(graph.get(key), str) for key in ("file", "sha256")):
            return "must have file and sha256 of each graph"
        if PurePosixPath(graph["file"].replace("\\", "/")).name != graph["file"]:
            return f"has a graph outside of the bundle, {graph['file']!r}"
    return None
