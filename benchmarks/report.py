"""Generates docs/PERFORMANCE.md from the results of the benchmarks, benchmarks/results/*.json.

Each script prints its own table of that page.

python benchmarks/report.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_lightning.config import CONF
from fer_lightning.studies.baselines.rows import header_of

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "PERFORMANCE.md"

PAGE_HEAD = """# Performance

Each section answers one question with the results of its script in `benchmarks/`. If a section names rounds, the
alternatives were measured alternately in each round, and the table shows medians; a ratio is the median of the ratios
of neighbouring rounds. One round is a single run. On other machines the numbers differ, so every section names its
machine.
Written by `python benchmarks/report.py` from `benchmarks/results/*.json`."""

SHORT_STEP = "sequential_cnn, width 4, hidden 32"
"""The case of training_loop.py with a step of about 5 ms."""

Row = Sequence[str]
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """A section of the page, which answers one question.

    Attributes:
        name: Name of the script in benchmarks/ and of its JSON file.
        title: The heading.
        table: Creates the rows of the table from the content of the file, headings first.
        note: Notes for reading the table; may be empty.
        aims: Targets of the project, each with a function that checks whether the content of a file reaches it.
    """

    name: str
    title: str
    table: Callable[[Result], list[Row]]
    note: str = ""
    aims: Sequence[tuple[str, Callable[[Result], bool]]] = ()


def aim_of(experiment: str) -> tuple[str, float, int] | None:
    """Parse `60% within 90 seconds` in an experiment's header: the text, the accuracy and the seconds."""
    path = CONF / "experiment" / f"{experiment}.yaml"
    header = header_of(path) if path.exists() else {}
    found = re.search(r"([\d.]+)% within (\d+) (second|minute)s", header.get("Aim", ""))
    return found and (found[0], float(found[1]) / 100, int(found[2]) * {"second": 1, "minute": 60}[found[3]])


def time_to_accuracy(result: Result) -> list[Row]:
    head = ("experiment", "seed", "aim", "seconds from process start", "PrivateTest", "PublicTest", "reached")
    rows: list[Row] = [(*head, "epochs", "parameters", "commit")]
    for run in sorted(result["runs"], key=lambda run: run["seconds"]):
        accuracies = (f"{run[f'{part}_test_accuracy']:.2%}" for part in ("private", "public"))
        counts = (f"{run['epochs']}", f"{run['parameters'] / 1e6:.2f} M")
        aim, reached = "", ""
        if target := aim_of(run["experiment"]):
            aim, accuracy, seconds = target
            reached = "yes" if run["private_test_accuracy"] >= accuracy and run["seconds"] <= seconds else "no"
        measured = (f"{run['seconds']:,.0f}", *accuracies, reached, *counts, run["commit"][:12])
        rows.append((run["experiment"], f"{run['seed']}", aim, *measured))
    return rows


def augmentation(result: Result) -> list[Row]:
    rows: list[Row] = [("implementation", "images/s on one core", "relative to albumentations")]
    rates = result["images_per_second"]
    ratios, step = result["ratio_to_albumentations"], result["share_of_a_training_step"]
    rows += [(name, f"{rates[name]:,.0f}", f"{ratios[name]:.2f}") for name in sorted(rates, key=rates.__getitem__)]
    label = (
        f"input pipeline and training step of {step['model']}, batch {step['batch_size']}, "
        f"{step['precision']}, {step['threads']} threads"
    )
    times = f"{step['input_pipeline_ms']:.2f} ms and {step['training_step_ms']:.1f} ms"
    return [*rows, (label, times, f"{step['share']:.1%} of the step")]


def from_disk(result: Result) -> float:
    """Return the ratio of trainings streamed from disk to resident ones."""
    rates = result["training"]
    return rates["streamed_from_disk_images_per_second"] / rates["resident_images_per_second"]


def streaming(result: Result) -> list[Row]:
    head = ("resident, images/s", "streamed, images/s", "streamed / resident")
    rows: list[Row] = [("", *head, "from disk, images/s", "from disk / resident")]
    for name in ("training", "input_pipeline"):
        rates = result[name]
        disk = rates.get("streamed_from_disk_images_per_second")
        rows.append(
            (
                f"{name.replace('_', ' ')}, {result['model']}" if name == "training" else name.replace("_", " "),
                f"{rates['resident_images_per_second']:,.0f}",
                f"{rates['streamed_images_per_second']:,.0f}",
                f"{rates['streamed_over_resident']:.1%}",
                *((f"{disk:,.0f}", f"{from_disk(result):.1%}") if disk else ("", "")),
            )
        )
    samples = result["memory_mib"]
    in_epoch = [sample for sample in samples if sample["when"].startswith("image")]
    shown = (samples[0], *in_epoch[1:2], in_epoch[-1], samples[-1])  # the others are in between
    for sample in {sample["when"]: sample for sample in shown}.values():
        memory = f"{sample['anonymous']:,} MiB anonymous, {sample['file']:,} MiB of files"
        rows.append((f"memory, {sample['when']}", "", memory, "", "", ""))
    return rows


def end_to_end(result: Result) -> list[Row]:
    rows: list[Row] = [("model", "usual, images/s", "ours, images/s", "ratio", "precision")]
    for model, row in result["models"].items():
        rates = (f"{row[f'{side}_images_per_second']:,.0f}" for side in ("usual", "ours"))
        rows.append((model, *rates, f"{row['ratio']:.2f}", row["precision"]))
    return rows


def training_loop(result: Result) -> list[Row]:
    head = ("bare loop, ms per step", "Lightning, ms per step", "ratio", "lowest to highest")
    rows: list[Row] = [("model", *head, "rounds", "batch", "precision")]
    for model, row in result.items():
        if isinstance(row, Mapping) and "bare_ms" in row:
            spread = f"{row['lowest']:.3f} to {row['highest']:.3f}"
            times = (f"{row['bare_ms']:.1f}", f"{row['lightning_ms']:.1f}", f"{row['ratio']:.3f}", spread)
            rows.append((model, *times, f"{row['rounds']}", f"{row['batch_size']}", row["precision"]))
    return rows


def compilation(result: Result) -> list[Row]:
    head = ("model", "uncompiled, ms per step", "compiled, ms per step", "ratio", "seconds to compile", "rounds")
    rows: list[Row] = [head]
    for model, row in result.items():
        if isinstance(row, Mapping) and "compiled_ms" in row:
            times = (f"{row['plain_ms']:.1f}", f"{row['compiled_ms']:.1f}", f"{row['ratio']:.3f}")
            rows.append((model, *times, f"{row['seconds_to_compile']:.0f}", f"{row['rounds']}"))
    return rows


def inference(result: Result) -> list[Row]:
    batches = result["milliseconds_a_face_one_thread"]
    network = f"{result['bundle']}, {result['parameters'] / 1e6:.2f} M parameters"
    rows: list[Row] = [(network, *(f"{batch}, ms per face, one thread" for batch in batches))]
    rows += [(name, *(f"{batch[name]:.3f}" for batch in batches.values())) for name in next(iter(batches.values()))]
    blank = [""] * (len(batches) - 1)
    for graph, seconds in result["seconds_for_1000_jpegs_all_cores"].items():
        rows.append((f"1,000 JPEG files, {graph}, all cores", f"{seconds:.2f} s", *blank))
    first = result["seconds_from_start_to_first_answer"]
    return [*rows, ("from the start of Python to the first prediction", f"{first:.2f} s", *blank)]


def detection(result: Result) -> list[Row]:
    rates = ("faces found", "false boxes per frame", "accuracy on found faces", "same faces, FER2013's crops")
    rows: list[Row] = [("detector", *rates, "detection, ms", "frames/s with classification")]
    for row in result["figures"]:
        counts = (f"{row['found']:.1%}", f"{row['false_a_frame']:.3f}", f"{row['right']:.1%}")
        times = (f"{row['detection_ms']:.1f}", f"{row['frames_a_second']:.1f}")
        rows.append((row["detector"], *counts, f"{row['right_as_cropped']:.1%}", *times))
    return rows


def first_read(result: Result) -> list[Row]:
    rows: list[Row] = [("file", "method", "seconds", "peak MB beyond the imports")]
    return rows + [
        (row["file"], row["case"], f"{row['seconds']:.3f}", f"{row['peak_mb']:.0f}") for row in result["figures"]
    ]


def start_up(result: Result) -> list[Row]:
    rows: list[Row] = [("command", "seconds", "slowest", "peak MiB")]
    for name, row in result["commands"].items():
        rows.append((name, f"{row['seconds']:.2f}", f"{row['largest_seconds']:.2f}", f"{row['peak_mib']:,}"))
    return rows


def peak_memory(result: Result) -> list[Row]:
    return [("run", "peak GiB"), ("40 steps of 128, whole validation and test, MLflow", f"{result['peak_gib']:.2f}")]


def growth(result: Result) -> list[Row]:
    head = ("images", "epochs", "processes", "seconds per epoch", "seconds in total", "seconds beside training")
    rows: list[Row] = [(*head, "peak GiB per process")]
    for row in result["rows"]:
        counts = (f"{row[key]:,}" for key in ("images", "epochs", "processes"))
        times = (f"{row[key]:.2f}" for key in ("seconds_an_epoch", "seconds_whole", "seconds_beside_training"))
        rows.append((*counts, *times, f"{row['peak_gib']:.2f}"))
    return rows


def side_by_side(result: Result) -> list[Row]:
    rows: list[Row] = [("experiment", "sequential, seconds", "parallel, seconds", "ratio")]
    for name, row in result["experiments"].items():
        times = (f"{row[key]:.0f}" for key in ("one_after_the_other_seconds", "side_by_side_seconds"))
        rows.append((f"{name}, {result['epochs']} epochs", *times, f"{row['ratio']:.2f}"))
    return rows


def sweep(result: Result) -> list[Row]:
    overhead, memory = result["overhead_s"], result["resident_mib"]
    first = next(key for key in memory if key.startswith("trial_"))
    return [
        ("measurement", f"over {result['trials']} trials"),
        ("overhead per trial, median", f"{overhead['median']:.2f} s"),
        ("in the first half", f"{overhead['median_of_first_half']:.2f} s"),
        ("in the second half", f"{overhead['median_of_second_half']:.2f} s"),
        (f"resident memory at {first.replace('_', ' ')}", f"{memory[first]:,} MiB"),
        ("at the last trial", f"{memory['last_trial']:,} MiB"),
    ]


def kills(result: Result) -> list[Row]:
    rows: list[Row] = [
        ("compared", f"identical of {result['trainings']} trainings, killed {len(result['kills'])} times in total")
    ]
    return rows + [(name.split(",")[0], f"{n}") for name, n in result.items() if name.endswith(", identical")]


def network_cost(result: Result) -> list[Row]:
    rows: list[Row] = [("experiment", "parameters", "million MACs", "ms per face, one thread")]
    for name, row in sorted(result["networks"].items(), key=lambda item: item[1]["milliseconds"]):
        millions = f"{row['multiplications'] / 1e6:,.1f}"
        rows.append((name, f"{row['parameters'] / 1e6:.2f} M", millions, f"{row['milliseconds']:.2f}"))
    return rows


def malformed(result: Result) -> list[Row]:
    rows: list[Row] = [("target", "inputs", "refused", "accepted", "failures", "MiB")]
    for row in result["targets"]:
        counts = (f"{row[key]:,}" if key in row else "" for key in ("inputs", "refused", "accepted"))
        rows.append((row["target"], *counts, f"{len(row['failures'])}", f"{row.get('memory_mib', '')}"))
    return [*rows, ("all", f"{result['inputs']:,}", "", "", f"{result['failures']}", f"{result['most_memory_mib']}")]


SHOWN = ("python train.py --cfg job", "python train.py --help", "python -m fer_lightning --help")
FIRST_STEP = "first training step of the demo"

SECTIONS = (
    Section(
        "time_to_accuracy",
        "Time to accuracy",
        time_to_accuracy,
        "The epoch is selected on PublicTest. Each row is one run, measured at its own time and commit; rows with "
        "other epochs are earlier recipes. An aim is reached if both its accuracy, on PrivateTest, and its time are.",
    ),
    Section(
        "augmentation",
        "Input pipeline",
        augmentation,
        "The policy is `augmentation=standard`. *BatchedAugmentation* is the default; *ImageAugmentation* is "
        "this project's policy with albumentations, one image at a time.",
        (
            ("at least 4 times albumentations", lambda r: r["ratio_to_albumentations"]["BatchedAugmentation"] >= 4),
            ("at most 3% of a training step", lambda r: r["share_of_a_training_step"]["share"] <= 0.03),
        ),
    ),
    Section(
        "streaming",
        "A million faces",
        streaming,
        "*Streamed* is read from the page cache. *From disk* is the median of three passes, each after the file was "
        "dropped from that cache; these were not measured alternately, and their ratio is that of the medians. "
        "Anonymous memory is what the process needs; the system can reclaim mapped memory of files at any time.",
        (
            ("training at least 90% of resident", lambda r: r["training"]["streamed_over_resident"] >= 0.9),
            ("the same from disk", lambda r: from_disk(r) >= 0.9),
        ),
    ),
    Section("end_to_end", "Training throughput", end_to_end),
    Section(
        "training_loop",
        "Overhead of Lightning",
        training_loop,
        "*Lowest to highest* is the range of the ratios of single rounds.",
        [
            ("at most 1.03 for custom_cnn", lambda r: r["custom_cnn"]["ratio"] <= 1.03),
            ("at most 1.10 at a step of 5 ms", lambda r: r[SHORT_STEP]["ratio"] <= 1.10),
        ],
    ),
    Section("compilation", "torch.compile", compilation, "`trainer.compile=true` is not the default."),
    Section("growth", "Scaling", growth, "A small network; the memory is that of the largest process."),
    Section(
        "side_by_side",
        "Parallel trainings",
        side_by_side,
        "Complete commands, including start-up and figures; `baselines run --at_once 2` runs trainings in parallel.",
    ),
    Section(
        "start_up",
        "Start-up",
        start_up,
        aims=(
            ("`--cfg job` and `--help` under 1 s", lambda r: all(r["commands"][name]["seconds"] < 1 for name in SHOWN)),
            ("the first step within 10 s", lambda r: r["commands"][FIRST_STEP]["seconds"] <= 10),
        ),
    ),
    Section("peak_memory", "Memory of a training", peak_memory, "One run."),
    Section("first_read", "Reading FER2013", first_read),
    Section("malformed", "Malformed input", malformed),
    Section("network_cost", "Networks", network_cost, "Latency is measured in PyTorch."),
    Section(
        "inference",
        "Inference",
        inference,
        "Medians; the runtimes were measured alternately, the last rows were not. ExecuTorch's programs take one face: "
        "their batch of 64 is 64 calls.",
    ),
    Section(
        "detection",
        "Video",
        detection,
        "Faces of PublicTest pasted into photographs, classified with the model that was bundled at this commit. The "
        "detectors were measured alternately; times are medians over the frames.",
    ),
    Section("sweep", "Sweeps", sweep),
    Section("kills", "Killed and resumed", kills),
)


def measured_on(result: Result) -> str:
    """Format machine, PyTorch version and commit of a result."""
    machine, torch, commit = result["machine"], result["versions"]["torch"], result["commit"]
    memory = f", {machine['memory_gib']} GiB" if machine["memory_gib"] else ""
    processor = f"{machine['cpu']}, {machine['cores']} cores{memory}, {machine['gpu'] or 'no GPU'}"
    return f"measured on {processor}, PyTorch {torch}, at commit `{commit}`."


def verdict(is_reached: Callable[[Result], bool], result: Result) -> str:
    try:
        return "reached" if is_reached(result) else "not reached"
    except KeyError:
        return "not measured"


def section(chosen: Section, results: Path) -> str:
    """Format one section; without its file, it is marked as not run."""
    file = results / f"{chosen.name}.json"
    if not file.exists():
        return f"## {chosen.title}\n\nnot run (`benchmarks/{chosen.name}.py`)\n"
    result = json.loads(file.read_text("utf-8"))
    text = f"{result['question']} {chosen.note}".strip()
    headings, *rows = chosen.table(result)
    table = "\n".join(f"| {' | '.join(row)} |" for row in [headings, ["---"] * len(headings), *rows])
    aims = " ".join(f"Aim: {text} ({verdict(is_reached, result)})." for text, is_reached in chosen.aims)
    rounds = result.get("rounds", 0)
    script = f"`benchmarks/{chosen.name}.py`" + (f", {rounds} round{'s' * (rounds > 1)}" if rounds else "")
    parts = [f"## {chosen.title}", text, aims, table, f"{script}; {measured_on(result)}"]
    return "\n\n".join(filter(None, parts)) + "\n"


def page(results: Path = RESULTS) -> str:
    """Generate docs/PERFORMANCE.md."""
    return "\n".join([f"{PAGE_HEAD}\n", *(section(chosen, results) for chosen in SECTIONS)])


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
