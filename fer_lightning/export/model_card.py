"""The model card of a bundle (Mitchell et al. 2019): what it is, what it scores, what it is for and what it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fer_lightning.reporting.markdown import with_interval

_INTENDED = """## Intended use

Research and teaching; sorting one's own pictures; interfaces and games that react to a face that a person shows on
purpose, with their consent, where a wrong answer does no harm.

Not for decisions about people: hiring, grading, credit, policing, border control, diagnosis, lie detection. Reading
emotions of people at work or in education is forbidden in the European Union (Regulation 2024/1689, article 5(1)(f)),
save for medical or safety reasons.

## What reading emotions from faces cannot do

The answer is the word that taggers would choose for the look of a face, not what the person feels. How people move
their faces when they feel something varies with culture, situation and person, and the same movement means different
things (Barrett et al. 2019, *Emotional Expressions Reconsidered*). FER2013's labels are noisy themselves: people agreed
with them on about 65% of the pictures (Goodfellow et al. 2013).

The data says nothing of age, gender, skin or origin of the people in it, so how equally the network treats them was not
measured. Faces that are turned away, covered, very dark or smaller than the input are outside of what it learnt. Every
face gets one of the classes; a low highest probability means that the network does not know."""


def model_card(bundle: Mapping[str, Any], confusion_matrix: Sequence[Sequence[int]]) -> str:
    """Markdown.

    Args:
        bundle: The content of `bundle.json`.
        confusion_matrix: Of the test part; rows are the true classes.
    """
    given, training, scores, on = (bundle[key] for key in ("input", "training", "scores", "measured_on"))
    temperature = bundle["temperature"]
    classes, size = bundle["classes"], given["size"]
    colours = "gray" if given["channels"] == 1 else "RGB"
    synthetic = (
        "**Trained on synthetic faces, drawn by the program: these numbers say nothing about real faces.**\n\n"
        if "synthetic" in (training["data"], on["data"])
        else ""
    )
    networks = bundle["networks"]
    epochs = _listed([str(network["epoch"]) for network in networks])
    if len(networks) == 1:
        who, chosen = "", f"epoch {epochs}, the best on the validation part."
    else:
        who = f"{len(networks)} networks vote; "
        chosen = f"epochs {epochs}, each network's best on the validation part."
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

{synthetic}Says which of {len(classes)} expressions a face shows: {", ".join(classes)}.
Takes {size}x{size} {colours} pictures of one face each; {who}{training["parameters"]:,} parameters.

## Training

Trained on {training["data"]} ({training["data_fingerprint"][:12]}), protocol {training["protocol"]};
{chosen}

    {training["command"]}

## Scores

Measured on {on["data"]}, protocol {on["protocol"]}, {bundle["views"]}, with 95% intervals.
`test_deduplicated` leaves out test pictures whose exact pixels are also among those the network was trained or chosen
on.

| part | pictures | accuracy | macro F1 | calibration error |
| --- | --- | --- | --- | --- |
{parts}

Its logits are divided by a temperature of {temperature["value"]:.3f}, fitted on the validation part, which changes no
answer, only how sure it is of it; without, the calibration error on the test part is
{temperature["test_ece_without"]:.1%}.

| class | {" | ".join(classes)} |
| --- | {" | ".join("---" for _ in classes)} |
| F1 | {" | ".join(f"{per_class[name]:.1%}" for name in classes)} |

| file | test accuracy | probability off PyTorch by | same label | MB |
| --- | --- | --- | --- | --- |
{exports}

## Known weaknesses

Weakest at {_listed([f"{name} (F1 {per_class[name]:.0%})" for name in weakest])}. Most often it mistakes
{_listed(_mistakes(classes, confusion_matrix))}.

{_INTENDED}
"""


def _mistakes(classes: Sequence[str], matrix: Sequence[Sequence[int]], count: int = 3) -> list[str]:
    """The most frequent mistakes, as shares of the true class."""
    cells = [
        (matrix[true][said] / max(1, sum(matrix[true])), f"{classes[true]} for {classes[said]}")
        for true in range(len(classes))
        for said in range(len(classes))
        if true != said
    ]
    return [f"{what} ({share:.0%} of them)" for share, what in sorted(cells, reverse=True)[:count]]


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)
