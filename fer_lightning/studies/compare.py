"""`python -m fer_lightning compare A B`: tests whether one network, or one recipe, is better on the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fer_lightning.cli.command_line import split_arguments
from fer_lightning.cli.help import wrap_text
from fer_lightning.files import check_writable, write_json
from fer_lightning.reporting.records import read_record
from fer_lightning.reporting.report import read_predictions
from fer_lightning.run_folder import BEST, PREDICTIONS, RECORD, run_of
from fer_lightning.training.metrics import scores_from_confusion

HELP = """usage: python -m fer_lightning compare A B [json=FILE]

A and B are output folders of measurements: a run, its evaluate_VIEWS_PART/, or an ensemble. Both must have been
measured on the same images. Reports how often only one of them is right, McNemar's test of that, the differences of
accuracy and macro F1 with paired 95% bootstrap intervals, and the F1 of each class side by side.

Patterns compare recipes, each with several seeds: compare 'outputs/baselines/A_seed*' 'outputs/baselines/B_seed*'. This
compares the mean accuracies, with one interval over seeds and one over images.

To compare with other views, run python -m fer_lightning evaluate checkpoint=A eval=tta and pass its folder.
"""

EXACT_BELOW = 25
"""Number of disagreements below which McNemar's test uses the exact binomial distribution."""

RESAMPLES = 2000

Classes = NDArray[np.int64]


@dataclass(frozen=True)
class McNemar:
    """McNemar's test (1947) of equal error rates of two networks on the same images.

    Attributes:
        only_a: Images that only the first network classifies correctly.
        only_b: Images that only the second network classifies correctly.
        test: `exact binomial`, or `chi-squared with continuity correction` from `EXACT_BELOW` disagreements on.
        p: Two-sided p-value in [0, 1].
    """

    only_a: int
    only_b: int
    test: str
    p: float


def mcnemar(only_a: int, only_b: int) -> McNemar:
    """Compute the test from the two counts of disagreement; without any disagreement p is 1."""
    n = only_a + only_b
    if n < EXACT_BELOW:
        tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
        return McNemar(only_a, only_b, "exact binomial", min(1.0, 2 * tail))
    chi2 = max(0, abs(only_a - only_b) - 1) ** 2 / n  # Edwards 1948; one degree of freedom
    return McNemar(only_a, only_b, "chi-squared with continuity correction", math.erfc(math.sqrt(chi2 / 2)))


def paired(labels: Classes, a: Classes, b: Classes, classes: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Compare two networks on the same N >= 1 images.

    Args:
        labels: (N,) true classes.
        a: (N,) predicted classes of the first network.
        b: (N,) predicted classes of the second network.
        classes: The C class names.
        seed: Seed of the bootstrap.

    Returns:
        `n`; `both_right`, `both_wrong`; `mcnemar`; `accuracy` and `macro_f1`, each with `a`, `b`, `difference` (a - b)
        and its 95% paired bootstrap percentile `interval`; `per_class_f1`, by class `[a, b]`.
    """
    count, n = len(classes), len(labels)
    # Images with the same label and predictions are interchangeable, so a resample is a multinomial draw over cells.
    cells = np.bincount((labels * count + a) * count + b, minlength=count**3)
    resamples = np.random.default_rng(seed).multinomial(n, cells / n, size=RESAMPLES)
    joint = torch.from_numpy(np.concatenate([cells[None], resamples])).view(-1, count, count, count)
    scores_a, scores_b = scores_from_confusion(joint.sum(dim=3)), scores_from_confusion(joint.sum(dim=2))
    right_a, right_b = a == labels, b == labels
    result: dict[str, Any] = {
        "n": n,
        "both_right": int((right_a & right_b).sum()),
        "both_wrong": int((~right_a & ~right_b).sum()),
        "mcnemar": asdict(mcnemar(int((right_a & ~right_b).sum()), int((~right_a & right_b).sum()))),
    }
    for name in ("accuracy", "macro_f1"):
        differences = (scores_a[name] - scores_b[name]).numpy()
        result[name] = {
            "a": scores_a[name][0].item(),
            "b": scores_b[name][0].item(),
            "difference": float(differences[0]),
            "interval": np.quantile(differences[1:], [0.025, 0.975]).tolist(),
        }
    both = zip(scores_a["f1"][0].tolist(), scores_b["f1"][0].tolist(), strict=True)
    return result | {"per_class_f1": {name: list(f1) for name, f1 in zip(classes, both, strict=True)}}


@dataclass(frozen=True)
class Measurement:
    """A measurement, read from its output folder.

    Attributes:
        folder: The folder.
        record: Its record.json.
        table: Its predictions.parquet, sorted by position.
    """

    folder: Path
    record: Mapping[str, Any]
    table: pd.DataFrame

    @classmethod
    def read(cls, path: Path) -> Measurement:
        """Read a measurement from its folder, or from the run of a `best.ckpt`.

        Raises:
            FileNotFoundError: The folder holds no measurement.
            ValueError: A file of it is damaged.
        """
        folder = run_of(path) if path.name == Path(BEST).name else path
        if not (folder / PREDICTIONS).is_file() or not (folder / RECORD).is_file():
            raise FileNotFoundError(
                f"{path} is not a folder with {RECORD} and {PREDICTIONS}; give a finished run or an ensemble, "
                "or measure a checkpoint first with python -m fer_lightning evaluate checkpoint=..."
            )
        record = read_record(folder / RECORD, "data", "data_fingerprint", "protocol")
        return cls(folder, record, read_predictions(folder))

    @property
    def classes(self) -> list[str]:
        """The class names in order."""
        return [name.removeprefix("p_") for name in self.table.columns if name.startswith("p_")]

    def positions(self, column: str) -> Classes:
        """Return a column of class names as class indices."""
        return np.asarray(pd.Categorical(self.table[column], categories=self.classes).codes, dtype=np.int64)


def check_same_images(a: Measurement, b: Measurement) -> None:
    """Check that two measurements can be paired.

    Raises:
        ValueError: Their images or classes differ.
    """
    if not len(a.table):
        raise ValueError(f"{a.folder} contains no images")
    if a.classes != b.classes:
        raise ValueError(f"{a.folder} has the classes {', '.join(a.classes)}; {b.folder} has {', '.join(b.classes)}")
    for what in ("index", "label"):
        if a.record["data_fingerprint"] != b.record["data_fingerprint"] or not np.array_equal(
            a.table[what].to_numpy(), b.table[what].to_numpy()
        ):
            raise ValueError(
                f"{a.folder} and {b.folder} were not measured on the same images: "
                f"{len(a.table)} of {a.record['data']} under {a.record['protocol']}, "
                f"{len(b.table)} of {b.record['data']} under {b.record['protocol']}"
            )


def compare(a: Measurement, b: Measurement) -> dict[str, Any]:
    """Return `paired` of two measurements, with the folder, data and protocol of each.

    Raises:
        ValueError: Their images or classes differ.
    """
    check_same_images(a, b)
    sources = {
        name: {"folder": str(m.folder), "data": m.record["data"], "protocol": m.record["protocol"]}
        for name, m in (("a", a), ("b", b))
    }
    return sources | paired(a.positions("label"), a.positions("predicted"), b.positions("predicted"), a.classes)


def compare_recipes(a: Sequence[Measurement], b: Sequence[Measurement]) -> dict[str, Any]:
    """Compare the accuracies of two recipes over several seeds, on the same images.

    Seeds and images are two sources of variance (Bouthillier et al. 2021, arXiv 2103.03098): other seeds would give
    other networks, and other images another accuracy of the same networks. Each has its own interval.

    Args:
        a: Measurements of the first recipe, two or more.
        b: Measurements of the second recipe, two or more.

    Returns:
        `a` and `b`, each with `folders`, `accuracies`, `mean` and `deviation` (sample standard deviation);
        `difference` of the means (a - b); its 95% intervals `over_seeds`, Welch's, and `over_images`, paired
        bootstrap; `p`, Welch's two-sided.

    Raises:
        ValueError: A recipe has fewer than two seeds, or the images or classes differ.
    """
    from scipy.stats import ttest_ind  # takes a second to import

    for recipe in (a, b):
        if len(recipe) < 2:
            raise ValueError(f"{recipe[0].folder} is the only seed of its recipe; a comparison needs two or more seeds")
    for other in (*a[1:], *b):
        check_same_images(a[0], other)
    labels = a[0].positions("label")
    right_a, right_b = (np.stack([m.positions("predicted") == labels for m in recipe]) for recipe in (a, b))
    accuracies_a, accuracies_b = right_a.mean(axis=1), right_b.mean(axis=1)
    differences, counts = np.unique(right_a.mean(axis=0) - right_b.mean(axis=0), return_counts=True)
    resamples = np.random.default_rng(0).multinomial(len(labels), counts / len(labels), size=RESAMPLES)
    test = ttest_ind(accuracies_a, accuracies_b, equal_var=False)
    interval = test.confidence_interval(0.95)

    def summary(seeds: Sequence[Measurement], accuracies: NDArray[np.float64]) -> dict[str, Any]:
        return {
            "folders": [str(m.folder) for m in seeds],
            "accuracies": accuracies.tolist(),
            "mean": float(accuracies.mean()),
            "deviation": float(accuracies.std(ddof=1)),
        }

    return {
        "a": summary(a, accuracies_a),
        "b": summary(b, accuracies_b),
        "n": len(labels),
        "difference": float(accuracies_a.mean() - accuracies_b.mean()),
        "over_seeds": [float(interval.low), float(interval.high)],
        "over_images": np.quantile(resamples @ differences / len(labels), [0.025, 0.975]).tolist(),
        "p": float(test.pvalue),
    }


def verdict_on_recipes(result: Mapping[str, Any]) -> str:
    """Conclude a comparison of recipes in one sentence."""
    intervals = {"seeds": result["over_seeds"], "images": result["over_images"]}
    uncertain = [name for name, (low, high) in intervals.items() if not (low > 0 or high < 0)]
    if uncertain:
        return f"The better recipe cannot be determined: other {' or '.join(uncertain)} could reverse the difference."
    return f"{'A' if result['difference'] > 0 else 'B'} is the better recipe, over other seeds and other images."


def verdict(result: Mapping[str, Any]) -> str:
    """Conclude a comparison of two networks in one sentence."""
    test, accuracy = result["mcnemar"], result["accuracy"]
    if test["p"] >= 0.05:
        return "The difference in accuracy is not significant."
    better = "A" if accuracy["difference"] > 0 else "B"
    return (
        f"{better} is significantly more accurate. This holds for these two networks; "
        "to compare recipes, use compare 'A_seed*' 'B_seed*'."
    )


def points(difference: float, digits: int = 1) -> str:
    """Format a difference of two fractions in percentage points: 0.0109 is `+1.1`."""
    return f"{100 * difference:+.{digits}f}"


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
