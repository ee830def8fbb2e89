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
from rich.console import Console
from torch import Tensor

from fer_lightning.cli.verb import run_verb
from fer_lightning.files import check_writable, sha256
from fer_lightning.models.ensemble import soft_vote
from fer_lightning.models.network import count_parameters
from fer_lightning.overrides import verb_command, without, without_folders
from fer_lightning.reporting import records, tables
from fer_lightning.reporting.environment import environment, machine
from fer_lightning.run.trainer import quiet
from fer_lightning.studies.calibrate import Calibration
from fer_lightning.studies.compare import paired
from fer_lightning.studies.ensemble.recipe import Recipe
from fer_lightning.studies.ensemble.report import summary, write_ensemble_report
from fer_lightning.studies.trained import Trained
from fer_lightning.training.checkpoint_io import checkpoint_of, existing_checkpoint
from fer_lightning.training.evaluation import is_kaggle_test, score_part
from fer_lightning.training.metrics import Predictions, Scores, epoch_scores, full_scores
from fer_lightning.training.soft_voting import check_vote, vote_weights

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


SEED = 0
"""Draws the resamples of intervals; an ensemble is not trained, so that it has one row alone."""


@dataclass(frozen=True)
class Member:
    """A net that votes: what it is, and what it says of the parts.

    Attributes:
        checkpoint: Where it comes from.
        about: What a record says of it.
        parts: Its predictions of `val` and `test`.
    """

    checkpoint: Path
    about: dict[str, Any]
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


def predict_members(paths: Sequence[Path], overrides: Sequence[str], console: Console) -> tuple[list[Member], Trained]:
    """Predictions of each net for the val and test parts.

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
        check_compatible(first, net)
        console.print(f"{number}/{len(paths)}  {path}", highlight=False, soft_wrap=True)
        parts = {part: net.predictions(part) for part in ("val", "test")}
        members.append(Member(net.checkpoint, member_record(net), parts))
    assert first is not None
    return members, first


def check_compatible(first: Trained, net: Trained) -> None:
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


def member_record(net: Trained) -> dict[str, Any]:
    """The entry of a member in the record: where it is, what it is, and what its training took."""
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
    check_writable(folder, "outputs")
    members, first = predict_members(paths, overrides, console)
    val = members[0].parts["val"]
    shares = vote_weights(torch.stack([m.parts["val"].logits for m in members]), val.labels, weights, choose)
    voted = {part: vote(members, shares, part) for part in ("val", "test")}
    scores = scores_of_test(voted["test"], first)
    calibration = Calibration.fit(voted["val"], voted["test"])
    classes = first.module.classes
    rows = [
        {
            **member.about,
            "weight": share,
            "val": epoch_scores(member.parts["val"], classes),
            **{part: records.recorded(row) for part, row in scores_of_test(member.parts["test"], first).items()},
        }
        for member, share in zip(members, shares.tolist(), strict=True)
    ]
    voting = [row for row in rows if row["weight"] > 0]
    longest = max(voting, key=lambda row: row["minutes"] or 0)
    record = {
        "experiment": name,
        "name": name,
        "seed": SEED,
        "data": first.faces.name,
        "data_fingerprint": first.faces.fingerprint,
        "synthetic": first.faces.is_synthetic,
        "protocol": first.split.name,
        "leaky": first.split.is_leaky,
        "weights": weights,
        "choose": choose,
        "command": command,
        **environment(),
        "machine": longest["machine"] or machine(),
        "minutes": round(sum(row["minutes"] or 0 for row in voting), 2),
        "params": sum(row["params"] for row in voting),
        "val": epoch_scores(voted["val"], classes),
        **{part: records.recorded(row) for part, row in scores.items()},
        **against_best_member(members, rows, voted["test"], classes),
        "calibration": calibration.record(),
        "members": rows,
    }
    if is_kaggle_test(first.split, first.faces):
        kaggle = full_scores(Predictions.joined(*voted.values()), classes, first.evaluation["bootstrap"], SEED)
        record["kaggle_test"] = records.recorded(kaggle)
    write_ensemble_report(folder, first.faces, voted["test"], scores, record, calibration)
    console.print(tables.scores_table(scores, classes))
    console.print(summary(record), highlight=False)
    console.print(f"report: {folder}", soft_wrap=True)
    return record


def scores_of_test(predictions: Predictions, net: Trained) -> dict[str, Scores]:
    """The scores of the test part and of its subsets, on the data of that net."""
    return score_part(predictions, "test", net.split, net.module.classes, net.evaluation["bootstrap"], SEED)


def against_best_member(
    members: Sequence[Member], rows: Sequence[Mapping[str, Any]], voted: Predictions, classes: Sequence[str]
) -> dict[str, Any]:
    """How the vote compares on the test part with the member that is best on the val part."""
    best = max(range(len(rows)), key=lambda i: rows[i]["val"]["accuracy"])
    one, all_ = (predictions.logits.argmax(dim=1).numpy() for predictions in (members[best].parts["test"], voted))
    against = paired(voted.labels.numpy(), all_, one, classes, SEED)
    return {"best_member": rows[best]["run"], "against_best_member": against}


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
        [without_folders(word) for word in without(shlex.split(line), "publish")] for line in (before, command)
    )
    if said != says:
        raise ValueError(f"{path} holds what `{before}` measured: move it away, or give this one another name")


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""
    command = verb_command("ensemble", arguments)

    def act(given: Mapping[str, str], overrides: Sequence[str]) -> None:
        if ("members" in given) == ("recipe" in given):
            raise ValueError("give members=[RUN,RUN,...] or recipe=NAME")
        weights, choose = "equal", "all"
        check_vote(given.get("weights", weights), given.get("choose", choose))
        if publish := given.get("publish"):
            if not re.fullmatch(r"\w+", publish):
                raise ValueError(f"publish={publish} must be one word of letters, digits and _: the name of a row")
            check_writable(Path("results") / f"{publish}_seed0.json", f"publish={publish}")
        if "recipe" in given:
            recipe = Recipe.named(given["recipe"])
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
