"""Text of tables and numbers in several reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """Format a Markdown table without a final newline; with `numbers`, all columns but the first are right-aligned."""
    lines = [head, ["---", *["---:" if numbers else "---"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_interval(value: float, interval: Sequence[float], digits: int = 2) -> str:
    """Format a fraction with its interval: `67.15% (65.7% to 68.6%)`."""
    low, high = interval
    return f"{value:.{digits}%} ({low:.1%} to {high:.1%})"


def points(difference: float, digits: int = 1) -> str:
    """Format a difference of two fractions in percentage points: 0.0109 is `+1.1`."""
    return f"{100 * difference:+.{digits}f}"
