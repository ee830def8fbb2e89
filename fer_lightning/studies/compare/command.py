"""`python -m fer_lightning compare A B`: tests whether one network, or one recipe, is better on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fer_lightning.cli.command_line import split_arguments
from fer_lightning.cli.help import wrap_text
from fer_lightning.files import check_writable, write_json
from fer_lightning.reporting.markdown import points
from fer_lightning.run_folder import RECORD
from fer_lightning.studies.compare.networks import compare, verdict
from fer_lightning.studies.compare.recipes import compare_recipes, verdict_on_recipes
from fer_lightning.studies.measurement import Measurement

HELP = """usage: python -m fer_lightning compare A B [json=FILE]

A and B are output folders of measurements: a run, its evaluate_VIEWS_PART/, or an ensemble. Both must have been
measured on the same images. Reports how often only one of them is right, McNemar's test of that, the differences of
accuracy and macro F1 with paired 95% bootstrap intervals, and the F1 of each class side by side.

Patterns compare recipes, each with several seeds: compare 'outputs/baselines/A_seed*' 'outputs/baselines/B_seed*'. This
compares the mean accuracies, with one interval over seeds and one over images.

To compare with other views, run python -m fer_lightning evaluate checkpoint=A eval=tta and pass its folder.
"""


def _show(result: Mapping[str, Any], console: Console) -> None:
    for name in ("a", "b"):
        source = result[name]
        about = escape(f"{source['data']}, {source['protocol']}")
        line = f"[bold]{name.upper()}[/bold]  {escape(source['folder'])}  [dim]{about}[/dim]"
        console.print(line, highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("", "A", "B", "A - B, points", "95% interval"):
        table.add_column(column, justify="right" if column else "left")
    for name, label in (("accuracy", "accuracy"), ("macro_f1", "macro F1")):
        row = result[name]
        low, high = row["interval"]
        table.add_row(
            label,
            f"{row['a']:.2%}",
            f"{row['b']:.2%}",
            points(row["difference"], 2),
            f"{points(low)} to {points(high)}",
        )
    for name, (f1_a, f1_b) in result["per_class_f1"].items():
        table.add_row(f"F1 {escape(name)}", f"{f1_a:.1%}", f"{f1_b:.1%}", points(f1_a - f1_b), "")
    test = result["mcnemar"]
    console.print("", table, "")
    console.print(
        f"Of {result['n']:,} images both classify {result['both_right']:,} right and {result['both_wrong']:,} wrong, "
        f"only A {test['only_a']:,}, only B {test['only_b']:,}. McNemar, {test['test']}: p = {test['p']:.3g}.",
        highlight=False,
    )
    console.print(verdict(result), highlight=False)


def _show_recipes(result: Mapping[str, Any], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("", "seeds", "mean accuracy", "standard deviation", "lowest", "highest"):
        table.add_column(column, justify="right" if column else "left")
    for name in ("a", "b"):
        recipe, accuracies = result[name], result[name]["accuracies"]
        console.print(f"[bold]{name.upper()}[/bold]  {escape(', '.join(recipe['folders']))}", highlight=False)
        cells = (f"{value:.2%}" for value in (recipe["mean"], recipe["deviation"], min(accuracies), max(accuracies)))
        table.add_row(name.upper(), str(len(accuracies)), *cells)
    console.print("", table, "")
    over_seeds, over_images = (
        f"{points(low)} to {points(high)}" for low, high in (result["over_seeds"], result["over_images"])
    )
    console.print(
        f"A - B on {result['n']:,} images: {points(result['difference'], 2)} points; 95% interval over "
        f"seeds {over_seeds} (Welch, p = {result['p']:.2g}), over images {over_images} (paired bootstrap).",
        highlight=False,
    )
    console.print(verdict_on_recipes(result), highlight=False)


def measurements(pattern: str) -> list[Measurement]:
    """Return the measurements at a path or matching a pattern.

    Raises:
        FileNotFoundError: There are none.
    """
    is_pattern = has_magic(pattern) and not Path(pattern).exists()
    paths = sorted(map(Path, glob(pattern))) if is_pattern else [Path(pattern)]
    finished = [path for path in paths if (path / RECORD).is_file()] if len(paths) > 1 else paths
    if not finished:
        raise FileNotFoundError(f"no finished run matches {pattern}")
    return [Measurement.read(path) for path in finished]


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand and return its exit status."""
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(wrap_text(HELP))
        return 0 if arguments else 2
    folders = [argument for argument in arguments if Path(argument).exists() or "=" not in argument]
    given, unknown = split_arguments([argument for argument in arguments if argument not in folders], own=("json",))
    if unknown:
        raise ValueError(f"{unknown[0]} has no effect: compare reads finished measurements; leave it out")
    if len(folders) != 2:
        raise ValueError(f"give two folders of measurements, or two quoted patterns, not {len(folders)}")
    if "json" in given:
        check_writable(Path(given["json"]), f"json={given['json']}")
    a, b = (measurements(folder) for folder in folders)
    of_recipes = len(a) > 1 or len(b) > 1
    result = compare_recipes(a, b) if of_recipes else compare(a[0], b[0])
    if "json" in given:
        write_json(Path(given["json"]), result)
    (_show_recipes if of_recipes else _show)(result, Console())
    return 0
