"""Markdown that several reports share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """A Markdown table, without a newline at its end; of `numbers`, all columns but the first are right-aligned."""
    lines = [head, ["---", *["---:" if numbers else "---"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_interval(value: float, interval: Sequence[float], digits: int = 2) -> str:
    """A share of 1 with its interval: `67.15% (65.7% to 68.6%)`."""
    low, high = interval
    return f"{value:.{digits}%} ({low:.1%} to {high:.1%})"
