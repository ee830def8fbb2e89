"""Malformed values, bytes and containers."""

from __future__ import annotations

import copy
import functools
import json
import struct
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

odd_integers = st.sampled_from([-1, 0, 1, 2, 3, 255, 2**16, 2**31 - 1, 2**31, 10**9, 2**63, 2**64, -(2**63)])


odd_texts = st.sampled_from(
    ["", " ", "../../x", "/etc/passwd", "C:\\x", "\0", "nan", "1e999", "\ud800", "a" * 10_000, "${oc.env:HOME}", "???"]
) | st.text(max_size=12)


odd_targets = st.sampled_from(
    ["os.system", "builtins.eval", "fer_lightning.config.os.system", "fer_lightning.studies.baselines.command.main"]
).map(lambda name: {"_target_": name, "arguments": ["run"], "command": "touch stranger"})


odd_values: SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), odd_integers, st.floats(), odd_texts, odd_targets,
    st.builds(list), st.builds(dict), st.lists(odd_integers, max_size=3), st.builds(lambda: nested(4)),
    st.builds(lambda: nested(900)),
)  # fmt: skip
"""Lists and dicts are new each time, since `corrupted` modifies them."""


def nested(depth: int) -> list[Any]:
    """An empty list nested in lists."""
    return functools.reduce(lambda inner, _: [inner], range(depth - 1), [])


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with flipped bits, truncated, with parts removed, repeated or replaced by numbers or noise."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([1, 2, 4, 8, 100, 5000]))
        kind = draw(st.sampled_from(["flip", "cut", "remove", "repeat", "number", "noise"]))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        elif kind == "number":
            packed = struct.pack(draw(st.sampled_from(["<q", ">q"])), draw(odd_integers.filter(lambda n: n < 2**63)))
            data[at : at + 4] = packed[:4] if packed[0] else packed[4:]
        else:
            data[at:at] = draw(st.binary(max_size=16))
    return bytes(data)


@st.composite
def corrupted(draw: st.DrawFn, whole: Any) -> Any:
    """Nested lists and dicts in which an item is missing, added or of another type."""
    result = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        node = result
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], (dict, list)) and node[key] and draw(st.integers(0, 3)):
                node = node[key]
                continue
            action = draw(st.sampled_from(["change", "change", "drop", "add"]))
            if action == "drop":
                del node[key]
            elif action == "add" and isinstance(node, dict):
                node[draw(odd_texts)] = draw(odd_values)
            else:
                node[key] = draw(odd_values)
            break
    return result


def as_json(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except RecursionError:
        return b"[" * 100_000
