"""Every option of every group in conf/ is composed, built and run.

Searches are run as sweeps in tests/studies/test_study_report.py.
"""

import re
from pathlib import Path

import pytest
from helpers.runs import TINY, TINY_TRACKED
from omegaconf import OmegaConf

from fer_lightning.config import CONF, ROOT, check, to_container
from fer_lightning.run.train import train

NOT_RUN_HERE = {
    ("trainer", "gpu"): "needs a GPU",
    ("trainer", "ddp"): "starts processes of its own: tests/training/test_ddp.py",
    ("data", "fer2013"): "read from real and generated files in tests/data",
    ("data", "folder"): "read from generated folders in tests/data",
    ("loss", "distillation"): "needs a teacher: tests/training/test_distillation.py",
    ("callbacks", "distillation"): "needs a teacher: tests/training/test_distillation.py",
    ("experiment", "vggnet_tuned"): "needs a trained vggnet: tests/test_recipes.py",
    ("experiment", "distill_mobile"): "needs a teacher: tests/training/test_distillation.py",
    ("experiment", "ours_cpu_student"): "needs a teacher: tests/training/test_distillation.py",
    ("experiment", "born_again_mobile"): "needs a teacher: tests/training/test_distillation.py",
    ("experiment", "taught_mobile"): "needs a teacher: tests/training/test_distillation.py",
    ("experiment", "pruned_mobile"): "needs a pruned model: tests/studies/test_prune.py",
}
EXTRA = {
    ("model", "timm"): ["model.name=resnet10t"],
    ("model", "vgg"): ["model.width=8"],
    ("model", "vgg19"): ["model.width=8", "model.image_size=32"],
    ("model", "hybrid"): ["model.width=16"],
    ("model", "resnet18_small"): ["model.widths=[8,16,32,64]"],
    ("model", "resnet_wide"): ["model.widths=[8,16,32,64]"],
    ("model", "resmasknet"): ["model.name=test_resnet", "model.depths=[2,1,1,1]"],
    ("model", "emonext"): ["model.name=test_convnext", "model.image_size=32"],
    ("callbacks", "progressive_resizing"): ["model=compact", "callbacks.progressive_resizing.sides=[16]"],
    ("experiment", "vit_small"): ["model.name=test_vit", "model.image_size=32"],
    ("experiment", "convnext_tiny"): ["model.name=test_convnext", "model.image_size=32"],
    ("experiment", "resnet18"): ["model.name=resnet10t"],
}
"""Overrides that an option needs, or that shrink a large network; experiments also take those of their model."""


def options() -> list[tuple[str, str]]:
    return sorted(
        (path.parent.relative_to(CONF).as_posix(), path.stem)
        for path in CONF.glob("*/*.yaml")
        if path.parent.name not in ("local", "paths", "ensemble")  # ensembles: tests/studies/test_ensemble.py
    )


def overrides_for(group: str, option: str) -> list[str]:
    overrides = [f"{group}={option}", *EXTRA.get((group, option), [])]
    if group == "experiment":
        text = (CONF / group / f"{option}.yaml").read_text()
        models = re.findall(r"override /model: (\w+)", text)  # none: that of another experiment
        extra = [] if (group, option) in EXTRA else [o for model in models for o in EXTRA.get(("model", model), [])]
        no_download = ["model.pretrained=false"] if "pretrained: true" in text else []
        return [*overrides, *extra, *no_download, "data=synthetic"]
    return overrides


@pytest.mark.parametrize(("group", "option"), options(), ids=lambda value: value)
def test_option_has_a_description(group: str, option: str) -> None:
    text = (CONF / group / f"{option}.yaml").read_text()
    first = next(line for line in text.splitlines() if "@package" not in line)
    assert first.startswith("# ")


@pytest.mark.parametrize(("group", "option"), options(), ids=lambda value: value)
def test_option_composes_and_passes_the_checks(composed, group: str, option: str) -> None:
    extra = ["data.path=some/folder"] if option == "folder" else []
    config = composed(*overrides_for(group, option), *extra)
    check(config)
    to_container(config)


@pytest.mark.parametrize(("group", "option"), [o for o in options() if o[0] != "search"], ids=lambda value: value)
@pytest.mark.usefixtures("no_figures", "faces_drawn_once")
def test_option_runs(composed, tmp_path: Path, group: str, option: str) -> None:
    if (group, option) in NOT_RUN_HERE:
        pytest.skip(NOT_RUN_HERE[group, option])
    tiny = TINY_TRACKED if group == "tracking" else TINY
    if group == "data":
        tiny = [o for o in tiny if not o.startswith("data=")]
    if group == "debug":
        tiny = [*tiny, "trainer.max_epochs=1"]
    config = composed(*tiny, *overrides_for(group, option))
    objective = train(config)
    assert 0 <= objective <= 1
    assert (tmp_path / "run" / "record.json").exists()


def test_the_readme_lists_the_options_of_each_group_and_its_default() -> None:
    table = (ROOT / "README.md").read_text().split("| group | options, the default in bold |")[1].split("\n\n")[0]
    listed: dict[str, set[str]] = {}
    defaults: dict[str, str] = {}
    for row in table.splitlines()[2:]:
        _, group, text, _ = row.split("|")
        defaults |= {group.strip(" `"): name for name in re.findall(r"\*\*`(\w+)`\*\*", text)}
        listed[group.strip(" `")] = {name for name in re.findall(r"`([^`]+)`", text) if re.fullmatch(r"\w+\*?", name)}
    found: dict[str, set[str]] = {}
    for group, option in options():
        found.setdefault(group, set()).add("leaky_*" if option.startswith("leaky_") else option)
    assert listed == {group: found[group] for group in found if group != "experiment"}
    chosen = OmegaConf.load(ROOT / "conf" / "config.yaml").defaults
    chosen = {group: name for entry in chosen if not isinstance(entry, str) for group, name in entry.items()}
    assert defaults == {group: chosen[group] for group in listed if chosen.get(group)}
