"""The whole graph: channels, size, normalisation, building from conf/model, weights from files."""

import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from fer_lightning.models.network import FERNetwork, build_network, count_parameters, is_dense, load_weights

CONF = Path(__file__).parents[2] / "conf" / "model"
OPTIONS = sorted(path.stem for path in CONF.glob("*.yaml"))
NEEDED: dict[str, dict] = {
    "timm": {"name": "test_vit"},
    "resmasknet": {"name": "test_resnet", "depths": [3, 2, 1, 1]},
    "emonext": {"name": "test_convnext"},
    "vgg": {"width": 8},
    "vgg19": {"width": 8},
    "hybrid": {"width": 16},
    "resnet18_small": {"widths": [8, 16, 32, 64]},
    "resnet_wide": {"widths": [8, 16, 32, 64]},
}
"""What an option lacks, or makes a miniature of a large one; full sizes are counted in test_bodies.py."""
TINY = {"name": "test_resnet"}  # timm's own miniature, 0.4 M parameters


def config(option: str, **changes: object) -> dict:
    merged = OmegaConf.merge(OmegaConf.load(CONF / f"{option}.yaml"), changes)
    return OmegaConf.to_container(merged, resolve=True)


def network(option: str = "custom_cnn", num_classes: int = 7, **changes: object) -> FERNetwork:
    torch.manual_seed(0)
    return build_network(config(option, **changes), num_classes)


class Echo(nn.Module):
    """A body that shows what reaches it."""

    def forward(self, images: Tensor) -> Tensor:
        return images


def seen(images: Tensor, size: int, channels: int, mean: object = 0.0, std: object = 1.0) -> Tensor:
    return FERNetwork(Echo(), image_size=size, channels=channels, mean=mean, std=std)(images)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_takes_any_picture_and_trains_every_parameter(option: str) -> None:
    five = network(option, num_classes=5, **NEEDED.get(option, {})).eval()
    with torch.no_grad():
        assert five(torch.rand(2, 1, 48, 48)).shape == (2, 5)
        assert five(torch.rand(2, 3, 100, 80)).shape == (2, 5)
    seven = network(option, **NEEDED.get(option, {})).train()
    with torch.no_grad():
        for parameter in seven.parameters():  # residual branches that begin at zero would hide what is before them
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    logits = seven(torch.rand(4, 1, 48, 48))
    assert logits.shape == (4, 7)
    F.cross_entropy(logits, torch.arange(4)).backward()
    without = [name for name, p in seven.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    untouched = [name for name, p in seven.named_parameters() if name.endswith("weight") and not p.grad.any()]
    assert untouched == []


@pytest.mark.parametrize("option", OPTIONS)
def test_stages_and_head_are_the_whole_body(option: str) -> None:
    body = network(option, **NEEDED.get(option, {})).body
    stages = [list(stage.parameters()) for stage in body.stages()]
    assert len(stages) >= 3
    parts = [id(p) for stage in stages for p in stage] + [id(p) for p in body.head.parameters()]
    assert len(parts) == len(set(parts))
    assert set(parts) == {id(p) for p in body.parameters()}
    names = {id(p): i for i, p in enumerate(body.parameters())}
    first = [min(names[id(p)] for p in stage) for stage in stages]
    assert first == sorted(first), "from input to output"


@pytest.mark.parametrize("name", ["convnext_atto", "test_mambaout", "rdnet_tiny", "poolformer_s12"])
def test_stages_of_other_families_cover_the_backbone(name: str) -> None:
    body = network("timm", name=name).body
    covered = {id(p) for stage in body.stages() for p in stage.parameters()}
    assert covered == {id(p) for p in body.backbone.parameters()}


def test_normalisation_is_exact() -> None:
    images = torch.rand(2, 3, 4, 4)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    out = seen(images, 4, 3, mean, std)
    for channel in range(3):
        assert torch.allclose(out[:, channel], (images[:, channel] - mean[channel]) / std[channel], atol=1e-6)
    assert seen(torch.tensor([[[[0.0, 1.0], [0.5, 0.25]]]]), 2, 1, 0.5, 0.5).flatten().tolist() == [
        -1,
        1,
        0,
        -0.5,
    ]


def test_gray_is_repeated_and_rgb_becomes_luma() -> None:
    gray = torch.rand(2, 1, 4, 4)
    assert torch.equal(seen(gray, 4, 3), gray.expand(2, 3, 4, 4))
    colours = torch.eye(3).view(3, 3, 1, 1)  # red, green, blue
    assert torch.allclose(seen(colours, 1, 1).flatten(), torch.tensor([0.299, 0.587, 0.114]))
    with pytest.raises(ValueError, match="4 channels"):
        seen(torch.rand(1, 4, 2, 2), 2, 3)


def test_resizing_shrinks_with_antialias_and_enlarges_linearly() -> None:
    stripes = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(24)[None, None, None, :].expand(1, 1, 96, 96)
    assert seen(stripes, 24, 1)[..., 2:-2].sub(0.25).abs().max() < 0.05  # without antialias all are 0
    ramp = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1, 1, 2, 2)
    assert torch.allclose(seen(ramp, 4, 1)[0, 0, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))
    assert seen(torch.full((1, 3, 31, 77), 0.3), 48, 3).sub(0.3).abs().max() < 1e-6


def test_a_network_that_crops_sees_the_centre_of_whole_images() -> None:
    images = torch.rand(2, 1, 6, 8)
    echo = FERNetwork(Echo(), image_size=3, channels=1, mean=0.0, std=1.0)
    echo.crop = 0.5
    assert torch.equal(echo(images), F.interpolate(images[..., 1:4, 2:6], (3, 3), mode="bilinear", antialias=True))
    echo.crop = 1.0
    assert torch.equal(echo(images), F.interpolate(images, (3, 3), mode="bilinear", antialias=True))


def test_parameter_counts() -> None:
    assert count_parameters(network("vgg", image_size=40)) == 29_888_839
    assert count_parameters(network("sequential_cnn")) == 9 * (32 + 32 * 64 + 64 * 128) + 2 * 224 + (
        4608 * 128 + 128 + 128 * 7 + 7
    )
    five = 25 * 32 + 16 * 32 * 32 + 25 * 32 * 64 + 2 * (32 + 32 + 64)
    assert count_parameters(network("five_layer_cnn")) == five + 2304 * 1024 + 1024 + 1024 * 7 + 7
    blocks = 9 * (32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128) + 2 * 2 * 224
    assert count_parameters(network("custom_cnn")) == blocks + 128 * 128 + 2 * 128 + 128 * 7 + 7


def test_dense_networks_are_told_from_depthwise_ones() -> None:
    dense = {o: is_dense(network(o, **NEEDED.get(o, {}))) for o in OPTIONS}
    depthwise = {"efficientnet", "emonext", "mobilenetv2", "mobilenetv3"}
    assert {o for o, answer in dense.items() if not answer} == depthwise


def test_state_dict_keys_are_what_saved_files_hold() -> None:
    keys = {".".join(k.split(".")[:3]) for k in network().state_dict()}
    blocks, head = {f"body.blocks.{i}" for i in range(3)}, {f"body.head.{i}" for i in (0, 1, 4)}
    assert keys == {"mean", "std"} | blocks | head
    assert "body.blocks.2.4.running_var" in network().state_dict()
    keys = {k for k in network("timm", **TINY, hidden=8).state_dict() if not k.startswith("body.backbone.")}
    assert keys == {"mean", "std"} | {f"body.head.{i}.{w}" for i in (0, 3) for w in ("weight", "bias")}


def test_first_answer_is_near_uniform() -> None:
    for option in set(OPTIONS) - {"timm"}:
        net = network(option, **NEEDED.get(option, {})).train()
        loss = F.cross_entropy(net(torch.rand(16, 1, 48, 48)), torch.arange(16) % 7)
        assert loss.item() == pytest.approx(1.946, abs=0.1)


@pytest.mark.parametrize(
    ("option", "changes", "message"),
    [
        ("custom_cnn", {"image_size": 7}, r"model\.image_size=7 .* at least 8"),
        ("sequential_cnn", {"image_size": 4}, r"model\.image_size=4 .* at least 8"),
        ("vgg", {"image_size": 15}, r"model\.image_size=15 .* at least 16"),
        ("timm", {"name": "inception_v3"}, r"model\.image_size=48 does not suit inception_v3"),
        ("timm", {}, r"model\.name must be given"),
        ("timm", {"name": "resnet19"}, "not a timm model; the nearest names: resnet18"),
        ("timm", {"name": "resnet18.a9_in1k"}, r"the nearest names: resnet18\.a"),
        ("timm", {**TINY, "channels": 1}, r"model\.mean has 3 values, but model\.channels is 1"),
        ("custom_cnn", {"channels": 2}, r"model\.channels is 2"),
        ("custom_cnn", {"std": 0}, r"model\.std is 0"),
        ("custom_cnn", {"beauty": 1}, "beauty"),
        ("custom_cnn", {"width": -1}, "do not fit"),
        ("custom_cnn", {"_target_": "torch.nn.Linear"}, r"must lie under fer_lightning\.models\."),
        ("custom_cnn", {"_target_": "fer_lightning.models.network.torch.nn.Linear"}, "there is no module"),
        ("custom_cnn", {"_target_": "fer_lightning.models.network.build_network"}, "is not a network"),
        ("custom_cnn", {"_target_": "fer_lightning.models.missing.Net"}, "no module fer_lightning.models.missing"),
    ],
)
def test_wrong_settings_are_named(option: str, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        network(option, **changes)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"model\.mean is missing"):
        build_network({k: v for k, v in config("custom_cnn").items() if k != "mean"}, 7)


@pytest.fixture
def backbone() -> dict[str, Tensor]:
    """ImageNet-like weights in timm's naming, classifier and three input channels included."""
    torch.manual_seed(1)
    return timm.create_model("test_resnet", num_classes=1000).state_dict()


def test_backbone_weights_in_timms_naming(backbone: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "test_resnet.safetensors"
    safetensors.torch.save_file(backbone, path)
    loaded = network("timm", **TINY, weights=str(path), pretrained=True)  # the file takes the place of the fetch
    own = loaded.body.backbone.state_dict()
    assert own.keys() == {k for k in backbone if not k.startswith("fc.")}
    assert all(torch.equal(value, backbone[key]) for key, value in own.items())
    gray = network("timm", **TINY, weights=str(path), channels=1, mean=0.5, std=0.5).body.backbone
    first, *others = gray.state_dict()
    assert torch.allclose(gray.state_dict()[first], backbone[first].sum(dim=1, keepdim=True), atol=1e-6)
    assert all(torch.equal(gray.state_dict()[key], backbone[key]) for key in others)


def test_transformer_weights_of_another_size_are_resampled(tmp_path: Path) -> None:
    path = tmp_path / "test_vit.safetensors"
    source = timm.create_model("test_vit")
    safetensors.torch.save_file(source.state_dict(), path)
    loaded = network("timm", name="test_vit", weights=str(path)).body.backbone
    assert loaded.pos_embed.shape[1] < source.pos_embed.shape[1]
    assert torch.equal(loaded.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.pop("layer1.0.conv1.weight"), r"Missing key.*layer1\.0\.conv1\.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), r"Unexpected key.*extra"),
        (
            lambda w: w.update({"layer1.0.conv1.weight": torch.zeros(1)}),
            r"size mismatch for layer1\.0\.conv1",
        ),
    ],
)
def test_backbone_weights_that_do_not_fit_are_named(backbone, tmp_path: Path, spoil, message: str) -> None:
    spoil(backbone)
    path = tmp_path / "spoiled.safetensors"
    safetensors.torch.save_file(backbone, path)
    with pytest.raises(ValueError, match=message) as caught:
        network("timm", **TINY, weights=str(path))
    assert "spoiled.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["custom_cnn", "timm"])
@pytest.mark.parametrize("form", ["safetensors", "pt", "ckpt"])
def test_a_whole_network_comes_back_from_its_file(option: str, form: str, tmp_path: Path) -> None:
    changes = TINY if option == "timm" else {}
    torch.manual_seed(5)
    source = build_network(config(option, **changes), 7).eval()
    path = tmp_path / f"network.{form}"
    if form == "safetensors":
        safetensors.torch.save_file(source.state_dict(), path)
    elif form == "pt":
        torch.save(source.state_dict(), path)
    else:  # as Lightning nests it
        nested = {f"network.{k}": v for k, v in source.state_dict().items()}
        torch.save({"state_dict": {**nested, "loss.weight": torch.ones(7)}, "epoch": 3}, path)
    images = torch.rand(3, 1, 48, 48)
    assert not torch.equal(network(option, **changes).eval()(images), source(images))
    assert torch.equal(network(option, **changes, weights=str(path)).eval()(images), source(images))


def test_files_that_are_no_weights_of_this_network(backbone: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.weights=nowhere\.pt: there is no such file"):
        network(weights="nowhere.pt")
    for name in ("text.safetensors", "text.pt", "text.onnx", "empty.safetensors", "empty.pth"):
        path = tmp_path / name
        path.write_text("not weights" if name.startswith("text") else "")
        with pytest.raises(ValueError, match=name):
            network(weights=str(path))
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(backbone, path)
    with pytest.raises(ValueError, match=r"not of this network: its keys are like bn1\."):
        network(weights=str(path))
    safetensors.torch.save_file(network(num_classes=5).state_dict(), path)
    with pytest.raises(ValueError, match=r"size mismatch for body\.head\.4"):
        network(weights=str(path))


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_weights(network(), tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


def test_pretrained_without_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens at the hub's address: one refusal is enough, the client would retry for a minute."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(ValueError, match=r"resnet18.*model\.weights=.*model\.pretrained=false") as caught:
        network("resnet18", pretrained=True)
    assert "\n" not in str(caught.value)
    assert slept == []


def test_pretrained_where_nothing_was_published() -> None:
    with pytest.raises(ValueError, match=r"weights of convnext_atto_rms could not be fetched.*No pretrained weights"):
        network("timm", name="convnext_atto_rms", pretrained=True)


def test_export_with_a_dynamic_batch() -> None:
    net = network().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (torch.rand(2, 1, 48, 48),), dynamic_shapes={"images": {0: batch}})
    images = torch.rand(5, 1, 48, 48)
    assert torch.allclose(program.module()(images), net(images), atol=1e-5)
