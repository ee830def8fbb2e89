"""Members of an ensemble and their weights in a soft vote, fitted on the val part alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fer_lightning.files import sha256
from fer_lightning.run_folder import RECORD
from fer_lightning.training.checkpoint_io import checkpoint_of

MIN_WEIGHT = 1e-3
"""Fitted weights below this become 0: such a member is not worth its cost."""


def ensemble_members(path: Path) -> list[tuple[Path, float]]:
    """Return the checkpoints at a path, each with the weight of its vote; the weights sum to 1.

    Args:
        path: A checkpoint, a run (its best checkpoint), or a folder that `ensemble` wrote.

    Raises:
        ValueError: The record in the folder is damaged, or a member's checkpoint has changed since the measurement.
    """
    record = path / RECORD
    if record.is_file() and (members := _recorded_members(record)):
        voting = [member for member in members if member["weight"] > 0]
        for member in voting:
            checkpoint, measured = Path(member["checkpoint"]), member["checkpoint_sha256"]
            if measured and checkpoint.is_file() and sha256(checkpoint) != measured:
                raise ValueError(
                    f"{path} was measured with another {checkpoint}, which was trained again since: rerun the ensemble"
                )
        return [(Path(member["checkpoint"]), member["weight"]) for member in voting]
    return [(checkpoint_of(path), 1.0)]


def _recorded_members(record: Path) -> list[dict[str, Any]]:
    try:
        members = json.loads(record.read_text("utf-8")).get("members", [])
        return [
            {
                "checkpoint": str(member["checkpoint"]),
                "checkpoint_sha256": member.get("checkpoint_sha256"),
                "weight": float(member["weight"]),
            }
            for member in members
        ]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{record} is not a record of a run or an ensemble ({error})") from None


def fit_weights(logits: Tensor, labels: Tensor, tolerance: float = 1e-7, rounds: int = 20_000) -> Tensor:
    """Fit the weights of a soft vote that minimise cross entropy.

    They are the proportions of a mixture, found by expectation maximisation (Dempster, Laird & Rubin 1977); the
    problem is convex, and the largest gradient bounds the remaining improvement.

    Args:
        logits: float (M, N, C), of M networks on the val part.
        labels: int64 (N,).
        tolerance: Nats of cross entropy by which the weights may exceed the minimum, before small ones become 0.
        rounds: Maximum number of iterations.

    Returns:
        float64 (M,), each 0 or at least `MIN_WEIGHT`, with sum 1.
    """
    log_p = (
        logits.double()
        .log_softmax(dim=-1)
        .gather(2, labels.expand(len(logits), -1).unsqueeze(2))
        .squeeze(2)
        .clamp(min=-1e4)
    )
    p = (log_p - log_p.amax(dim=0)).exp()  # of the true class, scaled per image against underflow
    weights = torch.full((len(p),), 1 / len(p), dtype=torch.float64)
    for _ in range(rounds):
        gain = (p / (weights @ p)).mean(dim=1)
        weights = weights * gain
        if gain.max() - 1 < tolerance:
            break
    weights[weights < MIN_WEIGHT] = 0
    return weights / weights.sum()


def choose_greedily(logits: Tensor, labels: Tensor, rounds: int = 100) -> Tensor:
    """Ensemble selection with replacement (Caruana et al. 2004), by cross entropy.

    Starts with the best network and repeatedly adds the one whose vote lowers the loss most, until none does.

    Args:
        logits: float (M, N, C), of M networks on the val part.
        labels: int64 (N,).
        rounds: Maximum number of votes.

    Returns:
        int64 (M,), number of votes of each network; at least one is positive.
    """
    probabilities = logits.double().softmax(dim=-1)
    votes = torch.zeros(len(logits), dtype=torch.int64)
    total, best = torch.zeros_like(probabilities[0]), torch.tensor(torch.inf, dtype=torch.float64)
    for count in range(1, rounds + 1):
        mixed = (total + probabilities).gather(2, labels.expand(len(logits), -1).unsqueeze(2)) / count
        losses = -mixed.clamp(min=1e-300).log().mean(dim=(1, 2))
        if losses.min() >= best:
            break
        best, winner = losses.min(), int(losses.argmin())
        votes[winner] += 1
        total = total + probabilities[winner]
    return votes


def check_vote(weights: str, choose: str) -> None:
    """Check the options of `vote_weights`.

    Raises:
        ValueError: An option is unknown.
    """
    if weights not in ("equal", "fitted"):
        raise ValueError(f"weights is {weights!r}; it must be 'equal' or 'fitted'")
    if choose not in ("all", "greedy"):
        raise ValueError(f"choose is {choose!r}; it must be 'all' or 'greedy'")


def vote_weights(logits: Tensor, labels: Tensor, weights: str, choose: str) -> Tensor:
    """Return the weight of each network's vote, from the val part alone.

    Args:
        logits: float (M, N, C), of M networks on the val part.
        labels: int64 (N,).
        weights: `equal` (each vote of `choose` counts the same) or `fitted`.
        choose: `all` or `greedy`.

    Returns:
        float64 (M,), non-negative with sum 1.

    Raises:
        ValueError: `weights` or `choose` is unknown.
    """
    check_vote(weights, choose)
    votes = choose_greedily(logits, labels) if choose == "greedy" else torch.ones(len(logits))
    fractions = votes.double() / votes.sum()
    if weights == "fitted":
        voting = fractions > 0
        fractions[voting] = fit_weights(logits[voting], labels)
    return fractions
