import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from fer_lightning.training.losses import (
    CrossEntropyLoss,
    FocalLoss,
    LabelDrawingLoss,
    MultiTargetLoss,
    balanced_weights,
)

FER2013_TRAINING = [3995, 436, 4097, 7215, 4830, 3171, 4965]


def test_balanced_weights_of_fer2013() -> None:
    weights = balanced_weights(FER2013_TRAINING)
    assert [round(w, 2) for w in weights.tolist()] == [1.03, 9.41, 1.00, 0.57, 0.85, 1.29, 0.83]


def test_balanced_weights_equal_scikit_learn() -> None:
    labels = [0] * 5 + [1] * 2 + [2] * 13
    reference = compute_class_weight("balanced", classes=np.arange(3), y=np.array(labels))
    assert torch.allclose(balanced_weights([5, 2, 13]), torch.tensor(reference, dtype=torch.float32))


def test_a_class_without_images_has_weight_0() -> None:
    assert balanced_weights([4, 0]).tolist() == [0.5, 0.0]


def test_cross_entropy_by_hand() -> None:
    # softmax of (ln 3, 0) is (3/4, 1/4)
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    loss = CrossEntropyLoss([1, 1])(logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((-math.log(3 / 4) - math.log(1 / 4)) / 2)


def test_weighted_cross_entropy_by_hand() -> None:
    # 3 and 1 images of two classes: weights 4 / (2 * 3) and 4 / (2 * 1)
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    loss = CrossEntropyLoss([3, 1], class_weights="balanced")(logits, torch.tensor([0, 1]))
    w0, w1 = 2 / 3, 2.0
    assert loss.item() == pytest.approx((-w0 * math.log(3 / 4) - w1 * math.log(1 / 4)) / (w0 + w1))


def test_focal_by_hand() -> None:
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    loss = FocalLoss([1, 1], gamma=2.0)(logits, torch.tensor([0, 1]))
    by_hand = (-((1 / 4) ** 2) * math.log(3 / 4) - (3 / 4) ** 2 * math.log(1 / 4)) / 2
    assert loss.item() == pytest.approx(by_hand)


def test_focal_with_weights_by_hand() -> None:
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    loss = FocalLoss([3, 1], class_weights="balanced", gamma=1.0)(logits, torch.tensor([0, 1]))
    w0, w1 = 2 / 3, 2.0
    by_hand = (-w0 * (1 / 4) * math.log(3 / 4) - w1 * (3 / 4) * math.log(1 / 4)) / (w0 + w1)
    assert loss.item() == pytest.approx(by_hand)


def test_label_smoothing_by_hand() -> None:
    logits = torch.tensor([[math.log(3), 0.0]])
    loss = CrossEntropyLoss([1, 1], label_smoothing=0.2)(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx(-0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4))


def test_label_smoothing_with_class_weights_by_hand() -> None:
    # Weights 2/3 and 2 as above. Each image spreads its own weight: 0.9 of it on its label, 0.1 on the other class.
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    loss = CrossEntropyLoss([3, 1], class_weights="balanced", label_smoothing=0.2)
    w0, w1, rest = 2 / 3, 2.0, -math.log(1 / 4)
    right = -math.log(3 / 4)
    by_hand = (w0 * (0.9 * right + 0.1 * rest) + w1 * (0.1 * right + 0.9 * rest)) / (w0 + w1)
    assert loss(logits, torch.tensor([0, 1])).item() == pytest.approx(by_hand)
    # A mixture of 3/4 and 1/4 weighs 3/4 * 2/3 + 1/4 * 2 = 1, of which each class has 1/2 here.
    mixed = loss(logits[:1], torch.tensor([[0.75, 0.25]]))
    assert mixed.item() == pytest.approx(0.5 * right + 0.5 * rest)


@pytest.mark.parametrize("label", range(7))
def test_class_weights_do_not_change_the_optimal_prediction(label: int) -> None:
    loss = CrossEntropyLoss(FER2013_TRAINING, class_weights="balanced", label_smoothing=0.1)
    smoothed = torch.full((1, 7), 0.1 / 7)
    smoothed[0, label] += 0.9
    logits, target = smoothed.log().requires_grad_(), torch.tensor([label])
    at_best = loss(logits, target)
    at_best.backward()
    assert at_best.item() == pytest.approx(-(smoothed * smoothed.log()).sum().item(), rel=1e-5)  # no lower one exists
    torch.testing.assert_close(logits.grad, torch.zeros(1, 7), atol=1e-6, rtol=0)


def test_an_image_counts_by_the_weight_of_its_label_with_smoothing() -> None:
    logits = torch.randn(16, 7, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(16) % 7
    loss = CrossEntropyLoss(FER2013_TRAINING, class_weights="balanced", label_smoothing=0.1)
    weights = balanced_weights(FER2013_TRAINING)[labels]
    unweighted = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
    assert torch.allclose(loss(logits, labels), (weights * unweighted).sum() / weights.sum())
    assert torch.allclose(loss(logits, labels), loss(logits, F.one_hot(labels, 7).float()))


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_cross_entropy_equals_torch(class_weights: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 7, generator=generator)
    labels = torch.randint(7, (64,), generator=generator)
    weight = balanced_weights(FER2013_TRAINING) if class_weights == "balanced" else None
    ours = CrossEntropyLoss(FER2013_TRAINING, class_weights=class_weights)(logits, labels)
    assert torch.allclose(ours, F.cross_entropy(logits, labels, weight=weight))
    focal = FocalLoss(FER2013_TRAINING, class_weights=class_weights, gamma=0.0)(logits, labels)
    assert torch.allclose(ours, focal)


def test_smoothing_and_soft_targets_equal_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(32, 7, generator=generator)
    labels = torch.randint(7, (32,), generator=generator)
    soft = torch.rand(32, 7, generator=generator)
    soft = soft / soft.sum(dim=1, keepdim=True)
    smoothed = CrossEntropyLoss([1] * 7, label_smoothing=0.1)
    assert torch.allclose(smoothed(logits, labels), F.cross_entropy(logits, labels, label_smoothing=0.1))
    assert torch.allclose(CrossEntropyLoss([1] * 7)(logits, soft), F.cross_entropy(logits, soft))


def test_a_one_hot_target_equals_the_hard_label() -> None:
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    loss = FocalLoss([5, 1, 2], class_weights="balanced", gamma=2.0)
    assert torch.allclose(loss(logits, labels), loss(logits, F.one_hot(labels, 3).float()))


def test_focal_gradient_is_finite_for_confident_predictions() -> None:
    logits = torch.tensor([[60.0, -60.0], [-60.0, 60.0]], requires_grad=True)
    FocalLoss([1, 1], gamma=0.5)(logits, torch.tensor([0, 0])).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_class_weights_are_in_the_state_dict() -> None:
    loss = CrossEntropyLoss([3, 1], class_weights="balanced")
    assert loss.state_dict()["weight"].tolist() == pytest.approx([2 / 3, 2.0])


@pytest.mark.parametrize(
    "invalid",
    [{"gamma": -1.0}, {"label_smoothing": 1.0}, {"class_weights": "some"}],
    ids=lambda w: next(iter(w)),
)
def test_invalid_options_are_named(invalid: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"loss.{next(iter(invalid))}"):
        FocalLoss([1, 1], **invalid)  # type: ignore[arg-type]


def test_multi_target_by_hand() -> None:
    # softmax of (ln 5, ln 3, ln 2) is (0.5, 0.3, 0.2)
    logits = torch.tensor([[math.log(5), math.log(3), math.log(2)]])
    loss = MultiTargetLoss([1, 1, 1])
    assert loss(logits, torch.tensor([[0.5, 0.5, 0.0]])).item() == pytest.approx(-math.log(0.5))
    assert loss(logits, torch.tensor([[0.0, 0.6, 0.4]])).item() == pytest.approx(-math.log(0.3))
    assert loss(logits, torch.tensor([2])).item() == pytest.approx(-math.log(0.2))
    # A confident prediction of a label that the image does not have: 0.001 p of it is above the p of its own label.
    confident = torch.tensor([[20.0, 0.0, 0.0]])
    assert loss(confident, torch.tensor([[0.0, 1.0, 0.0]])).item() == pytest.approx(-math.log(1e-3), abs=1e-4)


def test_multi_target_increases_only_the_most_probable_of_the_labels() -> None:
    logits = torch.tensor([[1.0, 0.5, 0.0]], requires_grad=True)
    MultiTargetLoss([1, 1, 1])(logits, torch.tensor([[0.4, 0.6, 0.0]])).backward()
    assert logits.grad is not None
    assert [bool(g < 0) for g in logits.grad[0]] == [True, False, False]


def test_label_drawing_is_cross_entropy_of_sampled_labels() -> None:
    target = torch.tensor([[0.75, 0.25, 0.0]]).repeat(4000, 1)
    logits = torch.tensor([[1.0, 0.0, -1.0]]).repeat(4000, 1)
    loss = LabelDrawingLoss([1, 1, 1])
    torch.manual_seed(0)
    drawn = loss(logits, target).item()
    assert drawn == pytest.approx(CrossEntropyLoss([1, 1, 1])(logits, target).item(), abs=0.03)
    torch.manual_seed(0)
    assert loss(logits, target).item() == drawn
    assert loss(logits, target).item() != drawn
    one = loss(logits[:1], target[:1]).item()  # never a mixture of labels
    assert any(one == pytest.approx(F.cross_entropy(logits[:1], torch.tensor([c])).item()) for c in (0, 1))
    assert loss(logits, torch.full((4000,), 2)).item() == pytest.approx(
        F.cross_entropy(logits[:1], torch.tensor([2])).item()
    )


def test_multi_target_refuses_0_elsewhere() -> None:
    with pytest.raises(ValueError, match=r"loss\.elsewhere is 0; it must be between 0 and 1"):
        MultiTargetLoss([1, 1], elsewhere=0)


def test_losses_of_bfloat16_logits_are_computed_in_float32() -> None:
    logits = torch.randn(64, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.arange(64) % 7
    for loss in (CrossEntropyLoss([1] * 7), FocalLoss([1] * 7, gamma=2.0)):
        assert loss(logits, labels).dtype == torch.float32
        assert torch.equal(loss(logits, labels), loss(logits.float(), labels))
