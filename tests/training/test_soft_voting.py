import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fer_lightning.files import sha256
from fer_lightning.models.ensemble import Ensemble, soft_vote
from fer_lightning.training.soft_voting import choose_greedily, ensemble_members, fit_weights, vote_weights


def member_logits(skills: list[float], n: int = 150, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (M, n, 4) of members, the label's raised by their skill, with independent noise; and the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=generator)
    noise = torch.randn(len(skills), n, 4, generator=generator)
    one_hot = torch.nn.functional.one_hot(labels, 4).float()
    return torch.stack([skill * one_hot for skill in skills]) + noise, labels


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> float:
    return torch.nn.functional.cross_entropy(soft_vote(logits.double(), weights), labels).item()


def test_a_soft_vote_is_the_weighted_mean_of_probabilities() -> None:
    logits, weights = torch.randn(3, 5, 4), torch.tensor([0.5, 0.3, 0.2])
    expected = (logits.softmax(-1) * weights.view(-1, 1, 1)).sum(0)
    assert torch.allclose(soft_vote(logits, weights).softmax(-1), expected)


def test_a_member_that_was_trained_again_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "best.ckpt"
    checkpoint.write_bytes(b"a model")
    member = {"checkpoint": str(checkpoint), "checkpoint_sha256": sha256(checkpoint), "weight": 1.0}
    (tmp_path / "record.json").write_text(json.dumps({"members": [member]}))
    assert ensemble_members(tmp_path) == [(checkpoint, 1.0)]
    checkpoint.write_bytes(b"another model")
    with pytest.raises(ValueError, match=r"best\.ckpt, which was trained again since: rerun the ensemble"):
        ensemble_members(tmp_path)


def test_a_member_of_weight_0_has_no_influence() -> None:
    logits = torch.randn(2, 5, 4)
    assert torch.allclose(soft_vote(logits, torch.tensor([1.0, 0.0])), logits[0].log_softmax(-1))


def test_an_ensemble_votes_like_its_networks() -> None:
    networks = [torch.nn.Linear(3, 4) for _ in range(2)]
    images = torch.randn(6, 3)
    logits = Ensemble(networks, [3, 1])(images)
    expected = 0.75 * networks[0](images).softmax(-1) + 0.25 * networks[1](images).softmax(-1)
    assert torch.allclose(logits.softmax(-1), expected)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.floats(0, 4), min_size=2, max_size=5), st.integers(0, 99))
def test_fitted_weights_are_on_the_simplex_and_beat_equal_ones_and_each_member(skills: list[float], seed: int) -> None:
    logits, labels = member_logits(skills, seed=seed)
    weights = fit_weights(logits, labels)
    assert weights.min() >= 0
    assert weights.sum().item() == pytest.approx(1)
    fitted = cross_entropy(logits, labels, weights)
    count = len(skills)
    others = [torch.full((count,), 1 / count), *torch.eye(count)]
    assert all(fitted <= cross_entropy(logits, labels, other) + 1e-4 for other in others)


def test_a_harmful_member_gets_weight_0() -> None:
    assert fit_weights(*member_logits([3.0, -3.0]))[1] == 0


def test_fitted_weights_equal_those_of_a_general_optimizer() -> None:
    logits, labels = member_logits([1.0, 2.0, 0.5])

    def loss(free: list[float]) -> float:
        return cross_entropy(logits, labels, torch.tensor(free, dtype=torch.float64).softmax(0))

    reference = torch.tensor(minimize(loss, [0.0, 0.0, 0.0], tol=1e-10).x).softmax(0)
    assert torch.allclose(fit_weights(logits, labels), reference, atol=2e-3)


def test_greedy_selection_takes_good_members_and_leaves_bad_ones() -> None:
    logits, labels = member_logits([2.0, 2.0, -1.0])
    votes = choose_greedily(logits, labels)
    assert votes[2] == 0
    assert votes[:2].min() >= 1


def test_greedy_selection_starts_with_the_best_and_stops_without_improvement() -> None:
    logits, labels = member_logits([0.5, 3.0])
    same = torch.stack([logits[1], logits[1]])
    assert choose_greedily(same, labels).tolist() == [1, 0]


def test_greedy_selection_by_hand() -> None:
    # The true class of two images gets 0.9 and 0.1 of A, 0.1 and 0.9 of B, 0.4 twice of C. Their products: C 0.16
    # (A and B 0.09), then A and C 0.65 * 0.25 = 0.1625, then all three (1.4 / 3)^2 = 0.218.
    p = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.4, 0.4]], dtype=torch.float64)
    logits = torch.stack([p, 1 - p], dim=-1).log()
    votes = choose_greedily(logits, torch.tensor([0, 0]), rounds=3)
    assert votes.tolist() == [1, 1, 1]


def test_equal_votes_of_all_and_fitted_votes_of_a_greedy_selection() -> None:
    logits, labels = member_logits([2.0, 2.0, -1.0])
    assert vote_weights(logits, labels, "equal", "all").tolist() == pytest.approx([1 / 3] * 3)
    greedy = vote_weights(logits, labels, "fitted", "greedy")
    assert greedy[2] == 0
    assert greedy.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(("weights", "choose"), [("some", "all"), ("equal", "best")])
def test_unknown_options_are_named(weights: str, choose: str) -> None:
    logits, labels = member_logits([1.0, 1.0], n=5)
    with pytest.raises(ValueError, match=r"some|best"):
        vote_weights(logits, labels, weights, choose)


def test_a_member_that_is_selected_twice_counts_twice() -> None:
    logits, labels = member_logits([2.0, 1.6, 0.0])
    votes = choose_greedily(logits, labels)
    assert len(set(votes.tolist())) > 2, "no member is selected more often than another: the test proves nothing"
    weights = vote_weights(logits, labels, "equal", "greedy")
    assert torch.allclose(weights, votes.double() / votes.sum())
