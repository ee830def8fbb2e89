"""`python -m fer_lightning ensemble members=[...]`: trained nets that vote."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from torch import Tensor

from fer_lightning.config import CONF, plain
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.files import check_place, sha256
from fer_lightning.models.ensemble import soft_vote
from fer_lightning.models.network import count_parameters
from fer_lightning.reporting import figures, records, tables
from fer_lightning.reporting.report import write_report
from fer_lightning.studies.baselines.runner import RUNS
from fer_lightning.studies.calibrate import Calibration, save_diagram
from fer_lightning.studies.compare import paired, points
from fer_lightning.studies.trained import Trained
from fer_lightning.studies.verb import run_verb
from fer_lightning.trainer import quiet
from fer_lightning.training.checkpoint_io import checkpoint_of, existing_checkpoint
from fer_lightning.training.evaluation import is_kaggle_test, score_part
from fer_lightning.training.metrics import Predictions, Scores, epoch_scores, full_scores
from fer_lightning.training.voting import check_vote, vote_weights

HELP = """usage: python -m fer_lightning ensemble members=[RUN,RUN,...] [weights=fitted] [choose=greedy] [key=value ...]

Trained nets that vote: the mean of their probabilities.

  members=[RUN,...]        runs or checkpoints; patterns too: members='outputs/baselines/ours_single_seed*'
  recipe=NAME              the members and the vote of conf/ensemble/NAME.yaml
  weights=equal            equal | fitted: least cross entropy on the val part
  choose=all               all | greedy: adds, as often as it helps on the val part, the member that helps most
  publish=NAME             also writes results/NAME_seed0.json, which `baselines` shows
  eval=flip                any other key=value goes to every member; without it each keeps the views of its own run

Weights and members are chosen on the val part alone. What each net says is asked once and kept in its run's folder.
The report goes to outputs/ensembles/.
"""


@dataclass(frozen=True)
class Recipe:
    """An ensemble before it is trained (conf/ensemble).

    Attributes:
        name: `khanzada7` for conf/ensemble/khanzada7.yaml.
        members: The command line of each member's training, by the name of its run.
        weights: `equal` or `fitted`.
        choose: `all` or `greedy`.
    """

    name: str
    members: Mapping[str, Sequence[str]]
    weights: str = "equal"
    choose: str = "all"

    @classmethod
    def read(cls, name: str) -> Recipe:
        """The recipe of that name.

        Raises:
            ValueError: There is none; the message lists those there are.
        """
        path = CONF / "ensemble" / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
            raise ValueError(f"recipe={name}: there is no such ensemble; there are {known}")
        try:
            return cls(name=name, **plain(OmegaConf.load(path)))
        except TypeError as error:  # a key is missing or unknown
            raise ValueError(f"{path}: {str(error).removeprefix('Recipe.__init__() ')}") from None

    def runs(self) -> dict[str, Path]:
        """The folder of each member's run."""
        return {member: RUNS / member for member in self.members}

    def missing(self) -> list[str]:
        """The members whose training has not ended yet."""
        return [member for member, run in self.runs().items() if not (run / "record.json").is_file()]

    def trained(self) -> list[Path]:
        """The runs of all members.

        Raises:
            FileNotFoundError: Some are not trained; the message says how to.
        """
        if missing := self.missing():
            commands = [
                shlex.join(["python", "train.py", *self.members[name], f"hydra.run.dir={RUNS / name}"])
                for name in missing
            ]
            raise FileNotFoundError(
                f"{len(missing)} of the {len(self.members)} members of {self.name} are not trained yet; train with\n"
                + "\n".join(commands)
            )
        return list(self.runs().values())


@dataclass(frozen=True)
class Member:
    """A net that votes: what it is, and what it says of the parts.

    Attributes:
        checkpoint: Where it comes from.
        told: What a record says of it.
        parts: Its predictions of `val` and `test`.
    """

    checkpoint: Path
    told: dict[str, Any]
    parts: dict[str, Predictions]


def members_of(words: str) -> list[Path]:
    """The runs and checkpoints that `members=` names.

    Args:
        words: Paths or patterns, `[a,b]` or `a,b`; of a pattern's matches those count that hold a checkpoint.

    Raises:
        ValueError: There is none, or one that is named twice.
    """
    paths: list[Path] = []
    listed = words[1:-1] if words.startswith("[") and words.endswith("]") else words
    for word in listed.split(","):
        word = word.strip().strip("'\"")
        if not has_magic(word):
            paths += [Path(word)] if word else []
            continue
        found = [path for path in map(Path, sorted(glob(word))) if checkpoint_of(path).is_file()]
        if not found:
            raise ValueError(f"members: no run or checkpoint matches {word}")
        paths += found
    if not paths:
        raise ValueError("members names no run; give members=[RUN,RUN,...]")
    by_checkpoint: dict[Path, Path] = {}
    for path in paths:
        by_checkpoint.setdefault(checkpoint_of(path).resolve(), path)
    distinct = list(by_checkpoint.values())
    if len(distinct) == 1 < len(paths):
        raise ValueError(f"members names {distinct[0]} more than once, and no other net")
    return distinct


def ask(paths: Sequence[Path], overrides: Sequence[str], console: Console) -> tuple[list[Member], Trained]:
    """What each net says of the val and test parts.

    Args:
        paths: Runs or checkpoints.
        overrides: Hydra overrides for all of them.
        console: Where to tell of the progress.

    Returns:
        The members, and the first of them with its data.

    Raises:
        ValueError: They differ in data, protocol or classes, or were not trained on the data that is here.
    """
    members: list[Member] = []
    first: Trained | None = None
    for path in paths:
        existing_checkpoint(path)
    for number, path in enumerate(paths, start=1):
        net = Trained.load(path, overrides)
        first = first or net
        check_alike(first, net)
        console.print(f"{number}/{len(paths)}  {path}", highlight=False, soft_wrap=True)
        parts = {part: net.predictions(part) for part in ("val", "test")}
        members.append(Member(net.checkpoint, tell(net), parts))
    assert first is not None
    return members, first


def check_alike(first: Trained, net: Trained) -> None:
    """Refuses nets that cannot vote together.

    Raises:
        ValueError: One sentence says which net differs and in what.
    """
    for what, here, there in (
        ("on the data", first.provenance["data_fingerprint"][:12], net.provenance["data_fingerprint"][:12]),
        ("under the protocol", first.provenance["protocol"], net.provenance["protocol"]),
        ("on the classes", ", ".join(first.module.classes), ", ".join(net.module.classes)),
    ):
        if here != there:
            raise ValueError(
                f"members must be alike: {first.checkpoint} was trained {what} {here}, {net.checkpoint} {what} {there}"
            )
    trained = (net.provenance["data_fingerprint"], net.provenance["protocol"])
    if trained != (net.faces.fingerprint, net.split.name):
        raise ValueError(
            f"{net.checkpoint} was trained on {net.provenance['data']} {trained[0][:12]} under {trained[1]}, but here "
            f"is {net.faces.name} {net.faces.fingerprint[:12]} under {net.split.name}; data.path=... names another file"
        )


def tell(net: Trained) -> dict[str, Any]:
    """What a record says of a member: where it is, what it is, and what its training took."""
    trained = net.record
    return {
        "run": str(net.run),
        "checkpoint": str(net.checkpoint),
        "checkpoint_sha256": sha256(net.checkpoint),
        "name": trained.get("name"),
        "views": net.views_name,
        "params": count_parameters(net.module.network),
        "minutes": trained.get("minutes"),
        "machine": trained.get("machine"),
        "command": trained.get("command"),
    }


def vote(members: Sequence[Member], weights: Tensor, part: str) -> Predictions:
    """The ensemble's predictions of a part."""
    first = members[0].parts[part]
    logits = torch.stack([member.parts[part].logits for member in members])
    return Predictions(first.index, soft_vote(logits, weights), first.labels)


def ensemble(
    name: str,
    paths: Sequence[Path],
    overrides: Sequence[str] = (),
    *,
    weights: str = "equal",
    choose: str = "all",
    command: str = "",
) -> dict[str, Any]:
    """Lets nets vote, measures each and all, and writes the report.

    Args:
        name: What the ensemble is called.
        paths: Runs or checkpoints.
        overrides: Hydra overrides for every member.
        weights: See `vote_weights`.
        choose: See `vote_weights`.
        command: What repeats it.

    Returns:
        The record, as it stands in `record.json`.
    """
    quiet()
    console = Console()
    folder = Path("outputs") / "ensembles" / name
    refuse_another(folder / "record.json", command)
    check_place(folder, "outputs")
    members, first = ask(paths, overrides, console)
    val = members[0].parts["val"]
    shares = vote_weights(torch.stack([m.parts["val"].logits for m in members]), val.labels, weights, choose)
    classes = first.module.classes
    resamples, seed = first.evaluation["bootstrap"], 0

    def scored(predictions: Predictions) -> dict[str, Scores]:
        return score_part(predictions, "test", first.split, classes, resamples, seed)

    voted = {part: vote(members, shares, part) for part in ("val", "test")}
    scores = scored(voted["test"])
    calibration = Calibration.fit(voted["val"], voted["test"])
    rows = [
        {
            **member.told,
            "weight": share,
            "val": epoch_scores(member.parts["val"], classes),
            **{part: records.recorded(s) for part, s in scored(member.parts["test"]).items()},
        }
        for member, share in zip(members, shares.tolist(), strict=True)
    ]
    best = max(range(len(rows)), key=lambda i: rows[i]["val"]["accuracy"])
    one, all_ = members[best].parts["test"].logits.argmax(dim=1), voted["test"].logits.argmax(dim=1)
    against = paired(voted["test"].labels.numpy(), all_.numpy(), one.numpy(), classes, seed)
    voting = [row for row in rows if row["weight"] > 0]
    longest = max(voting, key=lambda row: row["minutes"] or 0)
    record = {
        "experiment": name,
        "name": name,
        "seed": seed,
        "data": first.faces.name,
        "data_fingerprint": first.faces.fingerprint,
        "synthetic": first.faces.is_synthetic,
        "protocol": first.split.name,
        "leaky": first.split.is_leaky,
        "weights": weights,
        "choose": choose,
        "command": command,
        "commit": records.commit(),
        "machine": longest["machine"] or records.machine(),
        "versions": records.versions(),
        "minutes": round(sum(row["minutes"] or 0 for row in voting), 2),
        "params": sum(row["params"] for row in voting),
        "val": epoch_scores(voted["val"], classes),
        **{part: records.recorded(s) for part, s in scores.items()},
        "best_member": rows[best]["run"],
        "against_best_member": against,
        "calibration": calibration.record(),
        "members": rows,
    }
    if is_kaggle_test(first.split, first.faces):
        kaggle = full_scores(Predictions.joined(*voted.values()), classes, resamples, seed)
        record["kaggle_test"] = records.recorded(kaggle)
    write_ensemble_report(folder, first.faces, voted["test"], scores, record, calibration)
    console.print(tables.test_table(scores, classes))
    console.print(summary(record), highlight=False)
    console.print(f"report: {folder}", soft_wrap=True)
    return record


def refuse_another(path: Path, command: str) -> None:
    """Keeps what another command measured.

    Args:
        path: A record that is about to be written.
        command: What is about to write it.

    Raises:
        ValueError: The record there is of another command; where data lie, and whether it is published, is no matter.
    """
    if not path.is_file():
        return
    before = str(records.read_record(path, "command")["command"])
    said, says = (
        [records.without_folders(word) for word in shlex.split(line) if not word.startswith("publish=")]
        for line in (before, command)
    )
    if said != says:
        raise ValueError(f"{path} holds what `{before}` measured: move it away, or give this one another name")


def summary(record: Mapping[str, Any]) -> str:
    """Who votes, and whether the vote is better than the best member."""
    against, test = record["against_best_member"], record["against_best_member"]["mcnemar"]
    low, high = against["accuracy"]["interval"]
    voting = sum(row["weight"] > 0 for row in record["members"])
    gain = f"{points(against['accuracy']['difference'], 2)} points of accuracy"
    return (
        f"{voting} of {len(record['members'])} nets vote ({record['choose']}, weights {record['weights']}). Against "
        f"{record['best_member']}, the member that is best on the val part: {gain} on the test part "
        f"({points(low)} to {points(high)}); only the ensemble is right on {test['only_a']:,} pictures, "
        f"only that member on {test['only_b']:,} (McNemar, {test['test']}: p = {test['p']:.2g})."
    )


def write_ensemble_report(
    folder: Path,
    faces: FaceArrays,
    predictions: Predictions,
    scores: Mapping[str, Scores],
    record: Mapping[str, Any],
    calibration: Calibration,
) -> None:
    """Writes report.md, record.json, what every measurement has, and the pictures of members and calibration."""
    write_report(folder, faces, predictions, scores, protocol=record["protocol"])
    records.write_json(folder / "record.json", record)
    (folder / "report.md").write_text(markdown(record))
    save_diagram(calibration, folder / "reliability_diagram.png")
    runs = [Path(row["run"]) for row in record["members"]]
    alike = len({run.name for run in runs}) < len(runs)
    named = {str(run) if alike else run.name: row for run, row in zip(runs, record["members"], strict=True)}
    dots = {
        name: (row["test"]["accuracy"], *row["test"]["accuracy_interval"])
        for name, row in {**named, "ensemble": record}.items()
    }
    figure = figures.intervals(dots, "accuracy on the test part, 95% intervals", marked="ensemble")
    figures.save(figure, folder / "members.png")


def markdown(record: Mapping[str, Any]) -> str:
    """The report: each member and the ensemble, and how they were chosen."""

    def cells(row: Mapping[str, Any]) -> list[str]:
        accuracies = [
            "{:.2%} ({:.1%} to {:.1%})".format(row[part]["accuracy"], *row[part]["accuracy_interval"])
            if part in row
            else ""
            for part in ("test", "test_deduplicated")
        ]
        f1, size = f"{row['test']['macro_f1']:.2%}", f"{row['params'] / 1e6:.2f} M"
        return [f"{row['val']['accuracy']:.2%}", *accuracies, f1, size]

    head = [
        "",
        "weight",
        "views",
        "val accuracy",
        "test accuracy (95%)",
        "without copies (95%)",
        "macro F1",
        "parameters",
    ]
    table = [head, ["---"] * len(head)]
    table += [[r["run"], f"{r['weight']:.3f}", r["views"], *cells(r)] for r in record["members"]]
    table.append(["**ensemble**", "", "", *cells(record)])
    lines = ["| " + " | ".join(row) + " |" for row in table]
    fitted = record["weights"] == "fitted" or record["choose"] == "greedy"
    chosen = " The vote was chosen on the val part, so its val accuracy flatters it." if fitted else ""
    calibration = record["calibration"]
    before, after = calibration["test_before"], calibration["test_after"]
    return "\n".join(
        [
            f"# Ensemble {record['name']}\n",
            *lines,
            "",
            summary(record) + chosen + "\n",
            f"Temperature {calibration['temperature']:.3f}, fitted on the val part, takes the calibration error on the "
            f"test part from {before['ece']:.2%} to {after['ece']:.2%} and its negative log likelihood from "
            f"{before['nll']:.3f} to {after['nll']:.3f}.\n",
            f"Data {record['data']} {record['data_fingerprint'][:12]}, protocol {record['protocol']}, "
            f"commit {record['commit'][:12]}.\n",
            "![Members](members.png)\n",
            "![Reliability diagram](reliability_diagram.png)\n",
            f"```\n{record['command']}\n```\n",
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""
    command = records.verb_command("ensemble", arguments)

    def act(given: Mapping[str, str], overrides: Sequence[str]) -> None:
        if ("members" in given) == ("recipe" in given):
            raise ValueError("give members=[RUN,RUN,...] or recipe=NAME")
        weights, choose = "equal", "all"
        check_vote(given.get("weights", weights), given.get("choose", choose))
        if publish := given.get("publish"):
            if not re.fullmatch(r"\w+", publish):
                raise ValueError(f"publish={publish} must be one word of letters, digits and _: the name of a row")
            check_place(Path("results") / f"{publish}_seed0.json", f"publish={publish}")
        if "recipe" in given:
            recipe = Recipe.read(given["recipe"])
            paths, weights, choose = recipe.trained(), recipe.weights, recipe.choose
        else:
            paths = members_of(given["members"])
        name = given.get("publish") or given.get("recipe") or time.strftime("%Y-%m-%d_%H-%M-%S")
        weights, choose = given.get("weights", weights), given.get("choose", choose)
        published = Path("results") / f"{given['publish']}_seed0.json" if "publish" in given else None
        if published:
            refuse_another(published, command)
        record = ensemble(name, paths, overrides, weights=weights, choose=choose, command=command)
        if published:
            if record["leaky"]:
                raise ValueError(f"protocol {record['protocol']} leaks, so its numbers are no results to publish")
            records.publish(published, record)

    own = ("members", "recipe", "weights", "choose", "publish")
    parts = "a vote is chosen on the val part and measured on the test part"
    return run_verb("ensemble", HELP, act, arguments, own, {"eval.split": parts})
