"""A bundle: an exported network as one folder or zip, with all that is to know of it."""

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
"""What `bundle.json` says under `format`; a later layout has a higher number."""

BUNDLED: Final = Path(__file__).parent / "bundles"
"""Where the bundles lie that come with this package, a folder each."""

MAX_TEXT_BYTES: Final = 1_000_000
MAX_GRAPH_BYTES: Final = 500_000_000


class BundleError(ValueError):
    """A bundle is missing or not what it should be; the message says which and what to do."""


@dataclass(frozen=True)
class Bundle:
    """The description of an exported network; nothing in it is code, and its graphs are checked by their sha256.

    Attributes:
        name: What people call it.
        classes: Class names in the order of the graph's outputs.
        input_size: Side in pixels of the faces that the graph takes.
        channels: 1 (gray) or 3 (RGB).
        graphs: The kinds of graphs in it, `float` and perhaps `int8`.
        scores: Of the float graph, by part of the data (`test`, `test_deduplicated`): accuracy, its 95% interval,
            macro-F1, F1 of each class and so on, as `reporting.records.recorded` leaves them.
        card: The model card, Markdown.
        description: All of `bundle.json`.
        place: The folder or zip.
    """

    name: str
    classes: tuple[str, ...]
    input_size: int
    channels: int
    graphs: tuple[str, ...]
    scores: Mapping[str, Any]
    card: str
    description: Mapping[str, Any]
    place: Path

    @classmethod
    def load(cls, name_or_path: str | Path = "default") -> Bundle:
        """A bundled model by its name, or any bundle by its folder or zip.

        Raises:
            BundleError: There is none, or it is damaged or of another format.
        """
        place = _find(name_or_path)
        with _reader(place) as read:
            try:
                description = json.loads(read(DESCRIPTION, MAX_TEXT_BYTES))
                card = read(CARD, MAX_TEXT_BYTES).decode()
            except BundleError:
                raise
            except (ValueError, RecursionError) as error:
                raise BundleError(f"{place}: {DESCRIPTION} or {CARD} is damaged ({error})") from None
        fault = _fault(description)
        if fault:
            raise BundleError(f"{place}: {DESCRIPTION} {fault}")
        return cls(
            name=description["name"],
            classes=tuple(description["classes"]),
            input_size=description["input"]["size"],
            channels=description["input"]["channels"],
            graphs=tuple(description["graphs"]),
            scores=description.get("scores", {}),
            card=card,
            description=description,
            place=place,
        )

    def read_graph(self, kind: str = "float") -> bytes:
        """The ONNX file of a graph, checked against its sha256.

        Raises:
            BundleError: There is no such graph, or it is not the one that was exported.
        """
        if kind not in self.graphs:
            raise BundleError(f"{self.place} has no {kind} graph; it has {', '.join(self.graphs)}")
        graph = self.description["graphs"][kind]
        with _reader(self.place) as read:
            content = read(graph["file"], MAX_GRAPH_BYTES)
        if hashlib.sha256(content).hexdigest() != graph["sha256"]:
            raise BundleError(
                f"{self.place}: {graph['file']} is not the file that was exported (its sha256 differs): copy it again"
            )
        return content


def bundled() -> list[str]:
    """The names of the models that come with this package."""
    return sorted(found.parent.name for found in BUNDLED.glob(f"*/{DESCRIPTION}"))


def _find(name_or_path: str | Path) -> Path:
    if str(name_or_path) in bundled():
        return BUNDLED / name_or_path
    path = Path(os.path.expanduser(name_or_path))
    if path.exists():
        return path
    names = bundled()
    there_are = f"bundled are: {', '.join(names)}" if names else "no model is bundled with this installation"
    raise BundleError(
        f"there is no model {str(name_or_path)!r}, neither bundled nor as a bundle's folder or zip; {there_are}. "
        "One is made by `python -m fer_lightning export checkpoint=RUN out=FOLDER`"
    )


Read = Callable[[str, int], bytes]
"""Gives a file of a bundle by its name, of up to so many bytes."""


@contextmanager
def _reader(place: Path) -> Iterator[Read]:
    """Opens a folder or zip. Of a zip nothing is unpacked to disk, so no member can land anywhere."""
    try:
        if place.is_dir():

            def read_file(name: str, limit: int) -> bytes:
                if not (place / name).resolve().is_relative_to(place.resolve()):
                    raise BundleError(f"{place}: its {name} is a link out of the bundle: refused")
                return _bounded(place / name, (place / name).open("rb"), limit)

            yield read_file
            return
        with zipfile.ZipFile(place) as archive:
            members = {PurePosixPath(name.replace("\\", "/")): name for name in archive.namelist()}
            for member in members:
                if member.is_absolute() or ".." in member.parts:
                    raise BundleError(f"{place}: its member {str(member)!r} would climb out of the bundle: refused")
            roots = [member.parent for member in members if member.name == DESCRIPTION]
            if len(roots) != 1:
                raise BundleError(f"{place} is no bundle: it must hold one {DESCRIPTION}, it holds {len(roots)}")

            def read(name: str, limit: int) -> bytes:
                if roots[0] / name not in members:
                    raise BundleError(f"{place} is no bundle: {name} is missing")
                return _bounded(place / name, archive.open(members[roots[0] / name]), limit)

            yield read
    except FileNotFoundError as error:
        way = ""
        if (place / "bundle" / DESCRIPTION).is_file():
            way = f"; that of this run is {place / 'bundle'}"
        elif (place / "checkpoints").is_dir():
            way = f"; `python -m fer_lightning export checkpoint={place}` makes one of this run"
        raise BundleError(f"{place} is no bundle: {Path(error.filename).name} is missing{way}") from None
    except zipfile.BadZipFile:
        raise BundleError(f"{place} is no bundle: neither a folder nor a zip, or a damaged one") from None
    except BundleError:
        raise
    except Exception as error:  # a damaged zip, or one with a password, makes readers raise anything
        raise BundleError(f"{place} cannot be read ({error})") from None


def _bounded(path: Path, file: Any, limit: int) -> bytes:
    with file:
        content: bytes = file.read(limit + 1)
    if len(content) > limit:
        raise BundleError(f"{path} has more than the {limit:,} bytes that it may have")
    return content


def _fault(description: Any) -> str | None:
    """The fault in the content of a `bundle.json`, or None."""
    if not isinstance(description, dict) or "format" not in description:
        return "does not describe a bundle"
    if description["format"] != FORMAT:
        return f"has format {description['format']!r}, not {FORMAT}: update fer_lightning or export it again"
    classes, given, graphs = (description.get(key) for key in ("classes", "input", "graphs"))
    if not isinstance(description.get("name"), str):
        return "has no name"
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        return "has no class names"
    if len(set(classes)) < len(classes):
        return "names a class twice"
    if not isinstance(given, dict) or given.get("channels") not in (1, 3):
        return "must say under input that it takes 1 or 3 channels"
    if not isinstance(given.get("size"), int) or not 1 <= given["size"] <= 1024:
        return "must say under input how many pixels a side it takes, 1 to 1024"
    if not isinstance(graphs, dict) or not graphs:
        return "names no graph"
    for key in ("scores", "training"):
        if not isinstance(description.get(key, {}), dict):
            return f"must list {key} by name"
    if not all(isinstance(row, dict) for row in description.get("scores", {}).values()):
        return "must list the scores of each part by name"
    for graph in graphs.values():
        if not isinstance(graph, dict) or not all(isinstance(graph.get(key), str) for key in ("file", "sha256")):
            return "must say file and sha256 of each graph"
        if PurePosixPath(graph["file"].replace("\\", "/")).name != graph["file"]:
            return f"names a graph outside of the bundle, {graph['file']!r}: refused"
    return None
