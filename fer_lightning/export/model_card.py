"""The model card of a bundle (Mitchell et al. 2019): description, scores, intended and excluded uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fer_lightning.reporting.markdown import with_interval

_INTENDED_USE = """## Intended use

Research and teaching; sorting one's own photos; interfaces and games that react to a deliberately shown facial
expression, with the person's consent, where a wrong prediction does no harm.

Not for decisions about people: hiring, grading, credit, policing, border control, diagnosis, lie detection. Emotion
recognition of people at work or in education is prohibited in the European Union (Regulation 2024/1689, article
5(1)(f)), except for medical or safety reasons.

## Limitations of emotion recognition from faces

The prediction is the label that annotators would choose for the appearance of a face, not what the person feels. How
people move their faces when they feel something varies with culture, situation and person, and the same movement has
different meanings (Barrett et al. 2019, *Emotional Expressions Reconsidered*). Labels are noisy: people agreed with
those of FER2013 on about 65% of the images (Goodfellow et al. 2013).

Differences in accuracy by age, gender, skin colour or origin were not measured. Faces that are turned away, occluded,
very dark or smaller than the input are outside of the training distribution. Every face is assigned one of the classes;
a low highest probability indicates an uncertain prediction."""


def model_card(bundle: Mapping[str, Any], confusion_matrix: Sequence[Sequence[int]]) -> str:
    """Model card in Markdown.

    Args:
        bundle: The content of `bundle.json`.
        confusion_matrix: Confusion matrix of the test part; rows are the true classes.
    """
    model_input, training, scores, measured_on = (bundle[key] for key in ("input", "training", "scores", "measured_on"))
    temperature = bundle["temperature"]
    classes, size = bundle["classes"], model_input["size"]
    colours = "gray" if model_input["channels"] == 1 else "RGB"
    synthetic = (
        "**Trained or measured on synthetic faces: these numbers say nothing about real faces.**\n\n"
        if "synthetic" in (training["data"], measured_on["data"])
        else ""
    )
    networks = bundle["networks"]
    epochs = _join([str(network["epoch"]) for network in networks])
    if len(networks) == 1:
        ensemble, selection = "", f"epoch {epochs}, the best on the validation split."
    else:
        ensemble = f"an ensemble of {len(networks)} networks; "
        selection = f"epochs {epochs}, each network's best on the validation split."
    parts = "\n".join(
        f"| {part} | {row['n']:,} | {with_interval(row['accuracy'], row['accuracy_interval'])} | "
        f"{with_interval(row['macro_f1'], row['macro_f1_interval'])} | {row['ece']:.1%} |"
        for part, row in scores.items()
    )
    per_class = scores["test"]["per_class_f1"]
    weakest = sorted(per_class, key=lambda name: per_class[name])[:3]
    exports = "\n".join(
        f"| {kind} | {row['test_accuracy']:.2%} | {row['max_probability_difference']:.1e} | {row['agreement']:.1%} | "
        f"{row['bytes'] / 1e6:.2f} |"
        for kind, row in bundle["parity"].items()
        if kind != "PyTorch"
    )
    return f"""# {bundle["name"]}

{synthetic}Classifies the facial expression as one of {len(classes)} classes: {", ".join(classes)}.
Input: {size}x{size} {colours} images of one face each; {ensemble}{training["parameters"]:,} parameters.

## Training

Trained on {training["data"]} ({training["data_fingerprint"][:12]}), protocol {training["protocol"]};
{selection}

    {training["command"]}

## Scores

Measured on {measured_on["data"]}, protocol {measured_on["protocol"]}, {bundle["views"]}, with 95% intervals.
`test_deduplicated` excludes test images whose exact pixels also occur in the training or validation split.

| part | images | accuracy | macro F1 | calibration error |
| --- | --- | --- | --- | --- |
{parts}

The logits are divided by a temperature of {temperature["value"]:.3f}, fitted on the validation split, which calibrates
the confidences and changes no predicted class. Without it, the calibration error on the test split is
{temperature["test_ece_without"]:.1%}.

| class | {" | ".join(classes)} |
| --- | {" | ".join("---" for _ in classes)} |
| F1 | {" | ".join(f"{per_class[name]:.1%}" for name in classes)} |

| file | test accuracy | probability difference from PyTorch | same class | MB |
| --- | --- | --- | --- | --- |
{exports}

## Known weaknesses

Lowest F1: {_join([f"{name} ({per_class[name]:.0%})" for name in weakest])}. Most frequent errors:
{_join(_frequent_errors(classes, confusion_matrix))}.

{_INTENDED_USE}
"""


def _frequent_errors(classes: Sequence[str], matrix: Sequence[Sequence[int]], count: int = 3) -> list[str]:
    """Return the most frequent errors, as fractions of the true class."""
    cells = [
        (matrix[true][predicted] / max(1, sum(matrix[true])), f"{classes[true]} predicted as {classes[predicted]}")
        for true in range(len(classes))
        for predicted in range(len(classes))
        if true != predicted
    ]
    return [f"{error} ({fraction:.0%})" for fraction, error in sorted(cells, reverse=True)[:count]]


def _join(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else "".join(items)
