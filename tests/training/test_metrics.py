import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from fer_lightning.labels import EMOTIONS
from fer_lightning.training import metrics
from fer_lightning.training.metrics import Predictions, PredictionStore, confusion, epoch_scores, full_scores


def predictions(count: int, classes: int, seed: int) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator) * 2
    labels = torch.randint(classes, (count,), generator=generator)
    return Predictions(torch.arange(count), logits, labels)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 200), classes=st.integers(2, 9), seed=st.integers(0, 2**31))
def test_scores_equal_scikit_learn(count: int, classes: int, seed: int) -> None:
    ours = predictions(count, classes, seed)
    names = [f"c{i}" for i in range(classes)]
    scores = full_scores(ours, names, resamples=10)
    y, p = ours.labels.numpy(), ours.logits.argmax(1).numpy()
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(y, p))
    with np.errstate(all="ignore"):
        occurring = sorted(set(y) | set(p))
        assert scores["macro_f1"] == pytest.approx(
            sk.f1_score(y, p, average="macro", labels=occurring, zero_division=0)
        )
        recalls = sk.recall_score(y, p, average=None, labels=sorted(set(y)), zero_division=0)
    assert scores["balanced_accuracy"] == pytest.approx(recalls.mean())
    table = sk.precision_recall_fscore_support(y, p, labels=range(classes), zero_division=0)
    for i, name in enumerate(names):
        row = scores["per_class"][name]
        assert [row["precision"], row["recall"], row["f1"], row["support"]] == pytest.approx([t[i] for t in table])
    assert scores["confusion_matrix"] == sk.confusion_matrix(y, p, labels=range(classes)).tolist()
    assert scores["loss"] == pytest.approx(
        sk.log_loss(y, ours.logits.double().softmax(1).numpy(), labels=range(classes)), rel=1e-4
    )


def test_top2_and_ece_by_hand() -> None:
    # Two bins of 1/15: confidence 0.6 correct in one of two, confidence 0.9 correct in two of two.
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.9, 0.06, 0.04], [0.9, 0.06, 0.04]])
    ours = Predictions(torch.arange(4), probabilities.log(), torch.tensor([0, 2, 0, 0]))
    scores = epoch_scores(ours, ["a", "b", "c"])
    assert scores["top2_accuracy"] == pytest.approx(3 / 4)
    second = Predictions(torch.arange(4), probabilities.log(), torch.tensor([1, 2, 1, 0]))
    assert epoch_scores(second, ["a", "b", "c"])["top2_accuracy"] == pytest.approx(3 / 4)
    assert epoch_scores(second, ["a", "b", "c"])["accuracy"] == pytest.approx(1 / 4)
    assert scores["ece"] == pytest.approx(0.5 * abs(0.6 - 0.5) + 0.5 * abs(0.9 - 1.0), abs=1e-6)


def test_macro_f1_by_hand() -> None:
    logits = torch.eye(3)[[0, 0, 1, 1]] * 9
    scores = epoch_scores(Predictions(torch.arange(4), logits, torch.tensor([0, 0, 0, 1])), ["a", "b", "c"])
    # a: precision 1, recall 2/3, F1 0.8; b: precision 1/2, recall 1, F1 2/3; c occurs nowhere.
    assert scores["f1_a"] == pytest.approx(0.8)
    assert scores["f1_b"] == pytest.approx(2 / 3)
    assert scores["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)


def test_interval_equals_that_of_resampled_images() -> None:
    ours = predictions(400, 7, 3)
    scores = full_scores(ours, EMOTIONS, resamples=4000)
    correct = (ours.logits.argmax(1) == ours.labels).numpy()
    random = np.random.default_rng(0)
    resampled = [correct[random.integers(400, size=400)].mean() for _ in range(4000)]
    assert scores["accuracy_interval"] == pytest.approx(np.percentile(resampled, [2.5, 97.5]).tolist(), abs=0.008)
    low, high = scores["macro_f1_interval"]
    assert low < scores["macro_f1"] < high


def test_intervals_are_reproducible() -> None:
    ours = predictions(50, 7, 4)
    assert full_scores(ours, EMOTIONS, 100) == full_scores(ours, EMOTIONS, 100)


def test_intervals_do_not_depend_on_the_draws_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = predictions(50, 7, 4)
    at_once = full_scores(ours, EMOTIONS, 100)
    for draws in (1, 170):
        monkeypatch.setattr(metrics, "MAX_DRAWS_IN_MEMORY", draws)
        assert full_scores(ours, EMOTIONS, 100) == at_once


def test_store_sorts_and_drops_duplicate_images() -> None:
    store = PredictionStore()
    store.update(torch.tensor([5, 2]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    store.update(torch.tensor([2, 9]), torch.tensor([[0.0, 1.0], [3.0, 0.0]]), torch.tensor([1, 0]))
    result = store.collect()
    assert result.index.tolist() == [2, 5, 9]
    assert result.labels.tolist() == [1, 0, 0]
    assert confusion(result).tolist() == [[2, 0], [0, 1]]


def test_part_selects_images() -> None:
    ours = predictions(10, 3, 5)
    part = ours.part(torch.tensor([1, 7]))
    assert part.index.tolist() == [1, 7]
    assert torch.equal(part.logits, ours.logits[[1, 7]])


def test_store_of_one_image() -> None:
    store = PredictionStore()
    store.update(torch.tensor([3]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert store.collect().logits.shape == (1, 2)


def test_joined_predictions_are_in_the_order_of_the_data_set() -> None:
    logits = torch.arange(8.0).view(4, 2)
    whole = Predictions(torch.tensor([2, 5, 7, 9]), logits, torch.tensor([0, 1, 1, 0]))
    odd, even = whole.part(torch.tensor([5, 7, 9])), whole.part(torch.tensor([2]))
    joined = Predictions.concatenate(odd, even)
    assert joined.index.tolist() == [2, 5, 7, 9]
    assert torch.equal(joined.logits, logits)
    assert joined.labels.tolist() == [0, 1, 1, 0]


def test_intervals_equal_those_of_resampled_images_and_depend_on_the_seed() -> None:
    random_predictions = predictions(300, 4, 5)
    # most images have one label and are predicted so: accuracy and macro F1 differ
    labels = torch.where(torch.arange(300) % 10 < 8, 0, random_predictions.labels)
    logits = random_predictions.logits + torch.tensor([3.0, 0, 0, 0])
    ours = Predictions(random_predictions.index, logits, labels)
    names = list("abcd")
    scores, again, other = (full_scores(ours, names, resamples=2000, seed=seed) for seed in (1, 1, 2))
    assert scores == again
    assert scores["macro_f1_interval"] != other["macro_f1_interval"]
    y, p = ours.labels.numpy(), ours.logits.argmax(1).numpy()
    random = np.random.default_rng(0)
    resampled = [random.integers(0, 300, 300) for _ in range(2000)]
    for name, score in {
        "accuracy": lambda i: (y[i] == p[i]).mean(),
        "macro_f1": lambda i: sk.f1_score(y[i], p[i], average="macro"),
    }.items():
        expected = np.quantile([score(i) for i in resampled], [0.025, 0.975])
        assert scores[f"{name}_interval"] == pytest.approx(expected, abs=0.015), name
    assert scores["accuracy_interval"][0] > scores["macro_f1_interval"][1]


def test_a_store_is_reset_after_each_epoch() -> None:
    store = PredictionStore()
    for epoch in (1.0, 2.0):
        store.update(torch.tensor([1, 0]), torch.full((2, 3), epoch), torch.tensor([0, 1]))
        collected = store.collect()
        assert collected.index.tolist() == [0, 1]
        assert (collected.logits == epoch).all()
