"""`python -m fer_lightning ensemble members=[...]`: soft voting of trained networks."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from fer_lightning.cli.verb import run_verb
from fer_lightning.files import check_writable
from fer_lightning.models.ensemble import soft_vote
from fer_lightning.overrides import drop_overrides, strip_folders, verb_command
from fer_lightning.reporting import records, tables
from fer_lightning.reporting.environment import environment, machine
from fer_lightning.run.trainer import quiet
from fer_lightning.run_folder import RECORD
from fer_lightning.studies.calibrate import Calibration
from fer_lightning.studies.compare.networks import paired
from fer_lightning.studies.ensemble.members import Member, parse_members, predict_members
from fer_lightning.studies.ensemble.recipe import ENSEMBLES, Recipe
from fer_lightning.studies.ensemble.report import summary, write_ensemble_report
from fer_lightning.studies.trained import TrainedRun
from fer_lightning.training.evaluation import is_kaggle_test, score_part
from fer_lightning.training.metrics import Predictions, Scores, epoch_scores, full_scores
from fer_lightning.training.soft_voting import check_vote, vote_weights

HELP = """usage: python -m fer_lightning ensemble members=[RUN,RUN,...] [weights=fitted] [choose=greedy] [key=value ...]

Soft voting of trained networks: the weighted mean of their probabilities.

  members=[RUN,...]        runs or checkpoints; patterns too: members='outputs/baselines/ours_single_seed*'
  recipe=NAME              the members and the voting of conf/ensemble/NAME.yaml
  weights=equal            equal | fitted: least cross entropy on the val part
  choose=all               all | greedy: repeatedly adds the member that helps most, while it helps on the val part
  publish=NAME             also writes results/NAME_seed0.json, which `baselines` shows
  eval=flip                any other key=value applies to every member; by default each uses the views of its own run

Weights and members are selected on the val part only. The predictions of each network are cached in its run's folder.
The report is written to outputs/ensembles/.
"""


SEED = 0
"""Seed of the bootstrap; an ensemble is not trained, so it has a single row in the results."""


def vote(members: Sequence[Member], weights: Tensor, part: str) -> Predictions:
    """Return the ensemble's predictions on a part."""
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
    """Evaluate an ensemble and each of its members, and write the report.

    Args:
        name: Name of the ensemble.
        paths: Runs or checkpoints.
        overrides: Hydra overrides for every member.
        weights: See `vote_weights`.
        choose: See `vote_weights`.
        command: The command that repeats it.

    Returns:
        The content of `record.json`.
    """
    quiet()
    console = Console()
    folder = ENSEMBLES / name
    check_same_command(folder / RECORD, command)
    check_writable(folder, "outputs")
    members, first = predict_members(paths, overrides, console)
    val = members[0].parts["val"]
    member_weights = vote_weights(torch.stack([m.parts["val"].logits for m in members]), val.labels, weights, choose)
    voted = {part: vote(members, member_weights, part) for part in ("val", "test")}
    scores = score_test(voted["test"], first)
    calibration = Calibration.fit(voted["val"], voted["test"])
    rows = member_rows(members, member_weights, first)
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
        **cost_of(rows),
        **measured_parts(voted, scores, first),
        **against_best_member(members, rows, voted["test"], first.module.classes),
        "calibration": calibration.record(),
        "members": rows,
    }
    write_ensemble_report(folder, first.faces, voted["test"], scores, record, calibration)
    console.print(tables.scores_table(scores, first.module.classes))
    console.print(summary(record), markup=False, highlight=False)
    console.print(f"report: {folder}", markup=False, soft_wrap=True)
    return record


def member_rows(members: Sequence[Member], weights: Tensor, first: TrainedRun) -> list[dict[str, Any]]:
    """Return the entry of each member in the record, with its weight and scores."""
    return [
        {
            **member.record,
            "weight": weight,
            "val": epoch_scores(member.parts["val"], first.module.classes),
            **{part: records.recorded_scores(row) for part, row in score_test(member.parts["test"], first).items()},
        }
        for member, weight in zip(members, weights.tolist(), strict=True)
    ]


def cost_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the cost of the members with a weight: minutes and parameters, and the machine of the longest training."""
    voting = [row for row in rows if row["weight"] > 0]
    longest = max(voting, key=lambda row: row["minutes"] or 0)
    return {
        "machine": longest["machine"] or machine(),
        "minutes": round(sum(row["minutes"] or 0 for row in voting), 2),
        "params": sum(row["params"] for row in voting),
    }


def measured_parts(voted: Mapping[str, Predictions], scores: Mapping[str, Scores], first: TrainedRun) -> dict[str, Any]:
    """Return the scores in the record: of val, of test and its subsets, and of Kaggle's test images (val and test)."""
    classes = first.module.classes
    parts = {"val": epoch_scores(voted["val"], classes), **records.scores_by_part(scores)}
    if is_kaggle_test(first.split, first.faces):
        kaggle = full_scores(Predictions.concatenate(*voted.values()), classes, first.evaluation["bootstrap"], SEED)
        parts["kaggle_test"] = records.recorded_scores(kaggle)
    return parts


def score_test(predictions: Predictions, trained: TrainedRun) -> dict[str, Scores]:
    """Return the scores of the test part and of its subsets, on the data of `trained`."""
    return score_part(predictions, "test", trained.split, trained.module.classes, trained.evaluation["bootstrap"], SEED)


def against_best_member(
    members: Sequence[Member], rows: Sequence[Mapping[str, Any]], voted: Predictions, classes: Sequence[str]
) -> dict[str, Any]:
    """Compare the ensemble on the test part with the member that is best on the val part."""
    best = max(range(len(rows)), key=lambda i: rows[i]["val"]["accuracy"])
    member_classes, voted_classes = (p.logits.argmax(dim=1).numpy() for p in (members[best].parts["test"], voted))
    comparison = paired(voted.labels.numpy(), voted_classes, member_classes, classes, SEED)
    return {"best_member": rows[best]["run"], "against_best_member": comparison}


def check_same_command(path: Path, command: str) -> None:
    """Check that a record is not overwritten by the result of another command.

    Args:
        path: The record to write.
        command: The command that writes it.

    Raises:
        ValueError: The existing record is of another command; folders of the data and `publish` are not compared.
    """
    if not path.is_file():
        return
    existing = str(records.read_record(path, "command")["command"])
    old, new = (
        [strip_folders(word) for word in drop_overrides(shlex.split(line), "publish")] for line in (existing, command)
    )
    if old != new:
        raise ValueError(f"{path} holds the result of `{existing}`: move it away, or use another name")


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand and return its exit status."""
    command = verb_command("ensemble", arguments)

    def act(given: Mapping[str, str], overrides: Sequence[str]) -> None:
        if ("members" in given) == ("recipe" in given):
            raise ValueError("give members=[RUN,RUN,...] or recipe=NAME")
        published = None
        if publish := given.get("publish"):
            if not re.fullmatch(r"\w+", publish):
                raise ValueError(f"publish={publish} may contain only letters, digits and _: it names a row")
            published = records.RESULTS / records.record_name(publish, SEED)
            check_writable(published, f"publish={publish}")
            check_same_command(published, command)
        voting = {"weights": "equal", "choose": "all"}
        if "recipe" in given:
            recipe = Recipe.named(given["recipe"])
            voting = {"weights": recipe.weights, "choose": recipe.choose}
        voting |= {key: given[key] for key in voting if key in given}
        check_vote(**voting)
        paths = recipe.trained() if "recipe" in given else parse_members(given["members"])
        name = publish or given.get("recipe") or time.strftime("%Y-%m-%d_%H-%M-%S")
        record = ensemble(name, paths, overrides, command=command, **voting)
        if published:
            if record["leaky"]:
                raise ValueError(f"protocol {record['protocol']} is leaky, so its numbers must not be published")
            records.publish(published, record)

    own = ("members", "recipe", "weights", "choose", "publish")
    parts = "the voting is selected on the val part and measured on the test part"

    return run_verb("ensemble", HELP, act, arguments, own, {"eval.split": parts})
