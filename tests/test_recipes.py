"""Published recipes match their sources' papers and code; the header of a recipe states its differences."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from helpers.runs import TINY
from omegaconf import DictConfig
from torch import nn

from fer_lightning.config import ROOT, build, to_container
from fer_lightning.models.emonext import EmoNeXt
from fer_lightning.models.network import build_network, count_parameters
from fer_lightning.models.timm_body import TimmBody
from fer_lightning.run.preflight import build_meta_body
from fer_lightning.run.train import train
from fer_lightning.studies.baselines.rows import Baseline, header_of
from fer_lightning.studies.ensemble.recipe import RUNS

EXPERIMENTS = ROOT / "conf" / "experiment"
KHANZADA7 = ROOT / "conf" / "ensemble" / "khanzada7.yaml"
SIDE = 48  # of FER2013's images, in pixels


@dataclass(frozen=True)
class Differs:
    """A deliberate difference: the source's value, the value here, and the header's text about it."""

    source: object
    here: object
    stated: str


PLAIN_LOSS = {"label_smoothing": 0.0, "class_weights": "none", "mixup": None}
TEN_CROPS_OF_40 = {"views": 10, "view": 40, "average": "logits", "training_view": 40, "image_size": 40}
TEN_CROPS_OF_44 = {"views": 10, "view": 44, "average": "logits", "training_view": 44, "image_size": 44}
RANDOM_RESIZED_CROP = Differs("80 to 100% of the area", 0.1, "crops 80 to 100% of the area")

USEF_KH = {
    "optimizer": "SGD", "lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4, "batch_size": 64,
    "epochs": 300, "schedule": "plateau", "factor": 0.75, "patience": 5, "clip": None, "dropout": 0.2,
    "channels": 1, "pixels": (0.0, 1.0), "flip": 0.5, "rotation": 10, "shift": 0.2, "zoom": RANDOM_RESIZED_CROP,
    "brightness": 0.0, "contrast": 0.0, "erasing": 0.5, **PLAIN_LOSS, **TEN_CROPS_OF_40,
}  # fmt: skip
WUJIE = {
    "optimizer": "SGD", "lr": 0.01, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4, "batch_size": 128,
    "epochs": 250, "schedule": "step", "after": 80, "every": 5, "factor": 0.9, "clip": (0.1, "value"), "dropout": 0.5,
    "channels": Differs(3, 1, "one gray channel"), "pixels": (0.0, 1.0), "flip": 0.5, "rotation": 0, "shift": 0,
    "zoom": 0, "brightness": 0, "contrast": 0, "erasing": 0, **PLAIN_LOSS, **TEN_CROPS_OF_44,
}  # fmt: skip
KERAS_VGGFACE = {
    "optimizer": "SGD", "lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0, "batch_size": 128,
    "epochs": 100, "schedule": "plateau", "factor": 0.5, "patience": 10, "min_lr": 1e-5, "clip": None,
    "image_size": 197, "hidden": [4096, 1024], "dropout": 0.5, "flip": 0.5, "rotation": 10, "shift": 0.1, "zoom": 0.1,
    "views": 1, **PLAIN_LOSS,
}  # fmt: skip
FER_PLUS = {
    "optimizer": "SGD", "lr": Differs(0.05, 0.005, "CNTK's momentum multiplies the gradient by 1 - 0.9"),
    "momentum": 0.9, "batch_size": 32, "epochs": 100, "schedule": "step", "every": 20,
    "factor": Differs("1/2, then 1/10", 0.5, "learning rate halves every 20 epochs"), "image_size": 64, "flip": 0.5,
    "rotation": 20, "shift": 0.08, "zoom": 0.05, "pixels": Differs("equalised", (0.0, 1.0), "no unit standard"),
    "clip": None, "label_smoothing": 0.0, "mixup": None,
}  # fmt: skip

RECIPES: dict[str, dict[str, Any]] = {
    "vggnet": USEF_KH,
    "vggnet_tuned": {
        **{key: value for key, value in USEF_KH.items() if key not in ("factor", "patience")},
        **{"lr": 1e-4, "epochs": 50, "schedule": "cosine"},
    },
    "lethesec_resnet18": {
        **USEF_KH,
        **{"lr": 0.1, "batch_size": 128, "label_smoothing": 0.1, "mixup": 1.0, "brightness": 0.5, "contrast": 0.5},
        "dropout": 0.0,
    },
    "wujie_vgg19": WUJIE,
    "wujie_resnet18": WUJIE,
    "khanzada_five_layer": {
        "optimizer": "SGD", "lr": Differs(0.1, 0.01, "the report has 0.1"), "momentum": 0.9, "weight_decay": 1e-4,
        "batch_size": 128, "epochs": 300, "schedule": "plateau", "factor": 0.5, "patience": 10, "image_size": 48,
        "hidden": 1024, "dropout": 0.4, "flip": 0.5, "rotation": 10, "shift": 0.1, "zoom": 0.1, "views": 1,
        "clip": None, **PLAIN_LOSS,
    },
    "khanzada_resnet50": {
        **KERAS_VGGFACE,
        "trunk": Differs("VGGFace2's", "resnet50.tv_in1k", "ImageNet weights instead of VGGFace2's"),
        "pixels": Differs((0.0, 1.0), (0.485, 0.229), "instead of pixels in [0, 1]"),
        "finetune": Differs("170 layers frozen", None, "all layers are trained, the source freezes"),
    },
    "resmasknet": {
        "optimizer": "RAdam", "lr": 1e-4, "weight_decay": 1e-3, "decoupled": True, "batch_size": 48, "epochs": 50,
        "schedule": "plateau", "factor": 0.1, "patience": 2, "min_lr": 1e-6, "stop": 9, "clip": None,
        "image_size": 224, "channels": 3, "pixels": (0.0, 1.0), "dropout": 0.4, "trunk": "resnet34.tv_in1k",
        "flip": 0.5, "rotation": 30, "shift": 0, "zoom": 0, "brightness": 0, "contrast": 0, "erasing": 0,
        "views": 10, "view": 48, "average": "probabilities", **PLAIN_LOSS,
    },
    "emonext_tiny": {
        "optimizer": "AdamW", "lr": 1e-3, "weight_decay": 0.01, "batch_size": 32, "epochs": 20,
        "schedule": Differs("restarts", "cosine", "instead of restarts every 1,024 steps"), "warmup_steps": 128,
        "stop": Differs(12, None, "no early stopping after 12 epochs"), "clip": (1.0, "norm"),
        "ema": Differs("0.99 every 16 steps", 0.9994, "1% at every 16th"), "drop_path": 0.1,
        "trunk": Differs("XL", "convnext_tiny.fb_in22k", "the tiny size"), "image_size": 224, "pixels": (0.0, 1.0),
        "channels": 3, "flip": 0.5, "rotation": 20, "shift": 0, "zoom": 0, "erasing": 0, "label_smoothing": 0.2,
        "class_weights": "none", "mixup": None, "views": 10, "view": 46, "training_view": 46, "average": "logits",
    },
    "hybrid_mobile": {
        "optimizer": "Adam", "lr": 1e-4, "batch_size": 32, "schedule": "plateau", "factor": 0.5, "patience": 5,
        "image_size": 224, "channels": 1, "label_smoothing": 0.1, "class_weights": "balanced", "mixup": None,
        "flip": 0.5, "shift": 0.1, "clip": None, "views": 1,
    },
    "fer_plus_majority": {**FER_PLUS, "rule": "majority"},
    "fer_plus_soft": {**FER_PLUS, "rule": "soft"},
    "fer_plus_multi_target": {
        **{key: value for key, value in FER_PLUS.items() if key != "label_smoothing"}, "rule": "multi_target",
    },
}  # fmt: skip
"""By experiment: the settings of its source; a missing key is not stated by the source."""

MEMBERS: dict[str, dict[str, Any]] = {
    "khanzada_five_layer_dropout_30": {"dropout": 0.3, "epochs": 300, "batch_size": 128, "class_weights": "none"},
    "khanzada_five_layer_dropout_40": {"dropout": 0.4, "epochs": 300, "batch_size": 128, "class_weights": "none"},
    "khanzada_resnet50_seed0": KERAS_VGGFACE,
    "khanzada_resnet50_weighted": {**KERAS_VGGFACE, "class_weights": "balanced"},
    "khanzada_senet50": {
        **KERAS_VGGFACE,
        "trunk": Differs("SENet-50", "seresnet50.ra2_in1k", "SE-ResNet-50 of timm"),
    },
    "khanzada_senet50_weighted": {
        **KERAS_VGGFACE,
        "trunk": Differs("SENet-50", "seresnet50.ra2_in1k", "SE-ResNet-50 of timm"),
        **{"class_weights": "balanced", "batch_size": 64},
    },
    "khanzada_vgg16": {
        **KERAS_VGGFACE,
        "lr": Differs(0.01, 0.001, "0.01 trained only new layers"),
        "trunk": "vgg16.tv_in1k",  # without BatchNorm
        "hidden": Differs([4096, 1024], 1024, "keeps ImageNet's two layers of 4,096 and gets one of 1,024"),
    },
}
"""As `RECIPES`, by member of khanzada7."""

STATED = {
    "vggnet": ["all ten crops", "instead of half the time", "black", "centre crop", "vggnet_tuned"],
    "vggnet_tuned": ["trained only on Training"],
    "lethesec_resnet18": [
        *("instead of five", "instead of half the time", "black", "5x5", "4x4", "true class", "255 once"),
    ],
    "wujie_vgg19": ["centre crop"],
    "wujie_resnet18": ["6x6", "4x4", "centre crop"],
    "khanzada_resnet50": ["without the slow decay of the rate", "no dropout before the first hidden layer"],
    "resmasknet": ["ten random ones", "black"],
    "fer_plus_majority": ["dropout of 0.25 after each pooling", "shear along one axis"],
    "emonext_tiny": ["variance of attention", "upside-down", "centre crop", "last average", "black"],
}
"""Differences without a key, by the header's text about them."""

TRUNKS = {
    "convnext_tiny": "convnext_tiny.fb_in22k_ft_in1k",
    "efficientnet_b0": "efficientnet_b0.ra_in1k",
    "emonext_tiny": "convnext_tiny.fb_in22k",
    "khanzada_resnet50": "resnet50.tv_in1k",
    "mobilenetv2": "mobilenetv2_100.ra_in1k",
    "mobilenetv3_small": "mobilenetv3_small_100.lamb_in1k",
    "resmasknet": "resnet34.tv_in1k",
    "resnet18": "resnet18.tv_in1k",
    "vit_small": "vit_small_patch16_224.augreg_in21k_ft_in1k",
}
"""Experiments that start from weights of timm, with the name of the weights."""


def settings(config: DictConfig) -> dict[str, object]:
    """The settings of a composed configuration, by the keys of `RECIPES`."""
    optimizer, scheduler, trainer = config.optimizer, config.scheduler, config.trainer
    policy, mix, model = config.augmentation.policy, config.augmentation.get("mix") or {}, config.model
    stopping, average = ((config.callbacks or {}).get(name) or {} for name in ("early_stopping", "ema"))
    views = build(to_container(config.eval.views))(torch.zeros(1, 1, SIDE, SIDE))
    mean, std = (value[0] if isinstance(value := to_container(model)[key], list) else value for key in ("mean", "std"))
    return {
        "optimizer": optimizer["_target_"].rpartition(".")[2],
        "schedule": scheduler["_target_"].rpartition(".")[2],
        "decoupled": optimizer.get("decoupled_weight_decay"),
        **{key: optimizer.get(key) for key in ("lr", "momentum", "nesterov", "weight_decay")},
        **{key: scheduler.get(key) for key in ("factor", "patience", "min_lr")},
        "after": scheduler.get("after_epochs"),
        "every": scheduler.get("every_epochs"),
        "warmup_steps": round(scheduler.get("warmup_epochs", 0) * 28_709 / trainer.batch_size),
        "batch_size": trainer.batch_size,
        "epochs": trainer.max_epochs,
        "clip": trainer.gradient_clip_val and (trainer.gradient_clip_val, trainer.gradient_clip_algorithm),
        "stop": stopping.get("patience"),
        "ema": average.get("decay"),
        "finetune": to_container(config.finetune.callback) if config.finetune.callback else None,
        "label_smoothing": config.loss.get("label_smoothing"),
        "class_weights": config.loss.get("class_weights"),
        "mixup": mix.get("alpha"),
        **{key: policy[key] for key in ("flip", "rotation", "shift", "zoom", "brightness", "contrast", "erasing")},
        "training_view": round(policy.view * SIDE),
        "views": len(views),
        "view": views[0].shape[-1],
        "average": config.eval.average,
        **{key: to_container(model).get(key) for key in ("image_size", "channels", "hidden", "dropout", "drop_path")},
        "trunk": model.get("name"),
        "pixels": (mean, std),
        "rule": config.protocol.get("rule"),
    }


def differences(row: str, recipe: dict[str, Any], found: dict[str, object], ours: str) -> list[str]:
    """A line for each key that neither equals the source's nor is stated in the header's `Ours`."""
    lines = []
    for key, setting in recipe.items():
        here, source = (setting.here, setting.source) if isinstance(setting, Differs) else (setting, setting)
        if found[key] != here:
            expected = f", here {here!r}" if isinstance(setting, Differs) else ""
            lines.append(f"{row}: {key} is {found[key]!r}; its source has {source!r}{expected}")
        if isinstance(setting, Differs) and setting.stated not in ours:
            lines.append(f"{row}: {key} is {here!r} in place of {source!r}, and its Ours lacks {setting.stated!r}")
    return lines


def ours_of(path: Path) -> str:
    """The header's `Ours`, with that of any experiment that it refers to."""
    text = header_of(path).get("Ours", "")
    others = [EXPERIMENTS / f"{name}.yaml" for name in re.findall(r"as in (\w+)", text)]
    return " ".join([text, *(ours_of(other) for other in others if other.exists())])


def cases() -> list[tuple[str, dict[str, Any], list[str], Path]]:
    """Each row and member with its recipe, its overrides, and the file with its header."""
    overrides = yaml.safe_load(KHANZADA7.read_text())["members"]
    rows = [(row, recipe, [f"experiment={row}"], EXPERIMENTS / f"{row}.yaml") for row, recipe in RECIPES.items()]
    return [*rows, *((member, recipe, overrides[member], KHANZADA7) for member, recipe in MEMBERS.items())]


def test_every_published_row_has_its_recipe_here() -> None:
    headers = {path.stem: header_of(path) for path in EXPERIMENTS.glob("*.yaml")}
    with_verdict = {row for row, header in headers.items() if "Verdict" in header}
    unpublished = {row for row in with_verdict if headers[row]["Source"].startswith("unpublished")}
    assert with_verdict - unpublished - {"mobilenetv3_small_48"} == set(RECIPES)  # a variant of an unpublished one
    assert set(yaml.safe_load(KHANZADA7.read_text())["members"]) == set(MEMBERS)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case[0])
def test_a_recipe_equals_its_source_or_states_the_difference(composed, case: tuple[str, Any, list[str], Path]) -> None:
    row, recipe, overrides, path = case
    found, ours = settings(composed(*overrides)), ours_of(path)
    assert differences(row, recipe, found, ours) == []
    for key, setting in recipe.items():  # every key is compared
        changed = differences(row, recipe, {**found, key: "other"}, ours)
        assert [line for line in changed if f"{row}: {key} is 'other'; its source has" in line]
        if isinstance(setting, Differs):
            assert setting.source != setting.here
            unstated = differences(row, recipe, found, ours.replace(setting.stated, ""))
            assert [line for line in unstated if f"{row}: {key} is" in line and "its Ours lacks" in line]


@pytest.mark.parametrize("row", STATED)
def test_differences_without_a_key_are_stated(row: str) -> None:
    ours = header_of(EXPERIMENTS / f"{row}.yaml")["Ours"]
    assert [text for text in STATED[row] if text not in ours] == []


# ------------------------------------------------------------------ trunks


def test_every_pretrained_trunk_is_named_with_its_weights(composed) -> None:
    names = [path.stem for path in EXPERIMENTS.glob("*.yaml")]
    pretrained = {name for name in names if composed(f"experiment={name}").model.get("pretrained")}
    assert pretrained == set(TRUNKS)
    for row, name in TRUNKS.items():
        assert composed(f"experiment={row}").model.name == name
    members = [composed(*overrides).model for overrides in yaml.safe_load(KHANZADA7.read_text())["members"].values()]
    weights = {*TRUNKS.values(), *(model.name for model in members if model.get("pretrained"))}
    assert weights <= set(timm.list_pretrained())
    for name in weights:
        assert timm.get_pretrained_cfg(name, allow_unregistered=False).hf_hub_id == f"timm/{name}"


@pytest.mark.parametrize("row", [*TRUNKS, "wujie_resnet18", "vggnet_tuned"])
def test_rows_build_at_their_own_size_without_weights(composed, row: str) -> None:
    model = to_container(composed(f"experiment={row}").model)
    assert count_parameters(build_meta_body(model, 7)) > 1e6


def test_khanzadas_heads(composed) -> None:
    overrides = yaml.safe_load(KHANZADA7.read_text())["members"]

    def linear(member: str) -> list[tuple[int, int]]:
        body: Any = build_meta_body(to_container(composed(*overrides[member]).model), 7)
        return [(layer.in_features, layer.out_features) for layer in body.head if isinstance(layer, nn.Linear)]

    assert linear("khanzada_resnet50_seed0") == [(2048, 4096), (4096, 1024), (1024, 7)]
    assert linear("khanzada_senet50") == [(2048, 4096), (4096, 1024), (1024, 7)]
    assert linear("khanzada_vgg16") == [(4096, 1024), (1024, 7)]


def test_a_head_of_several_hidden_layers_drops_units_of_each() -> None:
    def head(**options: Any) -> list[str]:
        body = TimmBody("test_resnet", num_classes=7, channels=3, image_size=32, **options)
        return [type(layer).__name__ for layer in body.head]

    hidden = ["Linear", "ReLU", "Dropout"]
    assert head() == head(hidden=[]) == ["Dropout", "OutputLayer"]
    assert head(hidden=8) == head(hidden=[8]) == [*hidden, "OutputLayer"]
    assert head(hidden=[16, 8], dropout=0.5) == [*hidden, *hidden, "OutputLayer"]


def test_resmasknets_weight_decay_is_decoupled_from_the_gradient(composed) -> None:
    weight = nn.Parameter(torch.ones(1))
    options = to_container(composed("experiment=resmasknet").optimizer)
    optimizer = build({**options, "lr": 0.5, "weight_decay": 0.2}, [weight])
    for _ in range(10):  # RAdam is adaptive from the sixth step on: L2 in the gradient would change a weight by lr
        weight.grad = torch.zeros(1)
        optimizer.step()
    assert weight.item() == pytest.approx((1 - 0.5 * 0.2) ** 10)


def test_resmasknet_stops_at_the_ninth_epoch_without_improvement(composed) -> None:
    stopping = build(to_container(composed("experiment=resmasknet").callbacks.early_stopping))
    stopping._evaluate_stopping_criteria(torch.tensor(0.7))
    worse = [stopping._evaluate_stopping_criteria(torch.tensor(0.6))[0] for _ in range(9)]
    assert worse == [False] * 8 + [True]


# ------------------------------------------------------------------ FER+


def test_experiments_on_fer_plus_labels_have_votes_in_the_data_folder(composed) -> None:
    configs = {path.stem: composed(f"experiment={path.stem}") for path in EXPERIMENTS.glob("*.yaml")}
    on_fer_plus = {row: config for row, config in configs.items() if config.protocol["_target_"].endswith(".fer_plus")}
    assert set(on_fer_plus) == {row for row in configs if row.startswith("fer_plus_")}
    for row, config in on_fer_plus.items():
        assert config.data.votes_path == f"{config.paths.data_dir}/fer2013new.csv", row


@pytest.mark.parametrize(("row", "from_memory"), [("majority", 1), ("multi_target", 1), ("soft", 2)])
def test_figures_quoted_from_memory_are_marked(row: str, from_memory: int) -> None:
    claim = header_of(EXPERIMENTS / f"fer_plus_{row}.yaml")["Claim"]
    assert len(re.findall(r"\d+\.\d+%", claim)) == from_memory
    assert "quoted from memory" in claim
    assert Baseline(row, {"Claim": claim}).claimed == claim.split()[0]


# ------------------------------------------------------------------ EmoNeXt


def drop_rates(network: EmoNeXt) -> list[float]:
    return [module.drop_prob for module in network.backbone.modules() if type(module).__name__ == "DropPath"]


def test_emonexts_drop_rate_increases_to_that_of_the_last_block() -> None:
    options = {"num_classes": 7, "channels": 3, "image_size": 32}
    assert drop_rates(EmoNeXt("test_convnext", **options)) == []
    network = EmoNeXt("test_convnext", **options, drop_path=0.1)
    rates = drop_rates(network)
    assert rates == sorted(rates)
    assert rates[0] > 0
    assert rates[-1] == pytest.approx(0.1)
    network.load_backbone(timm.create_model("test_convnext", num_classes=1000).state_dict())
    assert drop_rates(network) == rates
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(network.eval()(images), network(images))  # only in training


def test_emonext_of_another_trunk_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it was built")

    monkeypatch.setattr(timm, "create_model", fail)
    monkeypatch.setattr("fer_lightning.models.timm_body._check_connection", fail)
    with pytest.raises(ValueError, match="resnet34 is not a ConvNeXt"):
        EmoNeXt("resnet34", num_classes=7, channels=3, image_size=224, pretrained=True)


def rates(config: DictConfig, steps_per_epoch: int) -> tuple[Any, float]:
    """The factor of the learning rate by step, and the number of steps of a run."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    epochs = config.trainer.max_epochs
    schedule = build(
        to_container(config.scheduler), optimizer=optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch
    )
    return schedule["scheduler"].lr_lambdas[0], epochs * steps_per_epoch


def test_emonexts_rate_rises_for_128_steps_and_falls_to_zero(composed) -> None:
    factor, steps = rates(composed("experiment=emonext_tiny"), 898)
    assert factor(127) < 1
    assert factor(128) == 1
    assert factor(steps) == 0


# ------------------------------------------------------------------ vggnet's last stage


def test_the_tuned_vggnet_differs_from_vggnet_in_weights_rate_and_epochs(composed) -> None:
    first, tuned = (to_container(composed(f"experiment={row}")) for row in ("vggnet", "vggnet_tuned"))
    for group in ("model", "augmentation", "loss", "optimizer", "eval", "trainer", "callbacks", "protocol", "data"):
        expected = {"model": {"weights"}, "optimizer": {"lr"}, "trainer": {"max_epochs"}}.get(group, set())
        assert {key for key in first[group] if first[group][key] != tuned[group][key]} == expected, group
    factor, steps = rates(composed("experiment=vggnet_tuned"), 449)
    assert [factor(0), factor(steps // 2), factor(steps)] == pytest.approx([1, 0.5, 0])
    assert header_of(EXPERIMENTS / "vggnet_tuned.yaml")["After"] == "vggnet"
    assert tuned["model"]["weights"] == (RUNS / "vggnet_seed0" / "checkpoints" / "best.ckpt").as_posix()


@pytest.mark.usefixtures("no_figures", "faces_drawn_once")
def test_the_tuned_vggnet_starts_from_a_run_of_vggnet(composed, tmp_path: Path) -> None:
    overrides = [*TINY, "model.width=8"]
    train(composed("experiment=vggnet", *overrides, f"paths.output_dir={tmp_path / 'first'}"))
    best = tmp_path / "first" / "checkpoints" / "best.ckpt"
    tuned = composed("experiment=vggnet_tuned", *overrides, f"model.weights={best}")
    start = build_network(to_container(tuned.model), 7).state_dict()
    saved = torch.load(best, weights_only=True)["state_dict"]
    assert start
    assert all(torch.equal(value, saved[f"network.{key}"]) for key, value in start.items() if key != "luma")
    train(tuned)
    assert (tmp_path / "run" / "record.json").exists()
