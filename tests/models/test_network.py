"""The complete graph: channels, size, normalisation, construction from conf/model, weights from files."""

import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from fer_lightning.config import CONF
from fer_lightning.models.network import FERNetwork, build_network, count_parameters, is_dense
from fer_lightning.models.weights import load_weights

OPTIONS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
OVERRIDES: dict[str, dict] = {
    "timm": {"name": "test_vit"},
    "resmasknet": {"name": "test_resnet", "depths": [3, 2, 1, 1]},
    "emonext": {"name": "test_convnext"},
    "vgg": {"width": 8},
    "vgg19": {"width": 8},
    "hybrid": {"width": 16},
    "resnet18_small": {"widths": [8, 16, 32, 64]},
    "resnet_wide": {"widths": [8, 16, 32, 64]},
}
"""Missing settings of an option, or a miniature of a large one; test_bodies.py counts full sizes."""
TINY = {"name": "test_resnet"}  # a miniature for tests in timm, 0.4 M parameters


def config(option: str, **changes: object) -> dict:
    merged = OmegaConf.merge(OmegaConf.load(CONF / "model" / f"{option}.yaml"), changes)
    return OmegaConf.to_container(merged, resolve=True)


def network(option: str = "custom_cnn", num_classes: int = 7, **changes: object) -> FERNetwork:
    torch.manual_seed(0)
    return build_network(config(option, **changes), num_classes)


class IdentityBody(nn.Module):
    """A body that returns its input."""

    def forward(self, images: Tensor) -> Tensor:
        return images


def preprocessed(images: Tensor, size: int, channels: int, mean: object = 0.0, std: object = 1.0) -> Tensor:
    return FERNetwork(IdentityBody(), image_size=size, channels=channels, mean=mean, std=std)(images)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_accepts_any_image_size_and_trains_every_parameter(option: str) -> None:
    five = network(option, num_classes=5, **OVERRIDES.get(option, {})).eval()
    with torch.no_grad():
        assert five(torch.rand(2, 1, 48, 48)).shape == (2, 5)
        assert five(torch.rand(2, 3, 100, 80)).shape == (2, 5)
    seven = network(option, **OVERRIDES.get(option, {})).train()
    with torch.no_grad():
        for parameter in seven.parameters():  # residual branches initialised to zero would block gradients
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    logits = seven(torch.rand(4, 1, 48, 48))
    assert logits.shape == (4, 7)
    F.cross_entropy(logits, torch.arange(4)).backward()
    no_gradient = [name for name, p in seven.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert no_gradient == []
    zero_gradient = [name for name, p in seven.named_parameters() if name.endswith("weight") and not p.grad.any()]
    assert zero_gradient == []


@pytest.mark.parametrize("option", OPTIONS)
def test_stages_and_head_are_the_whole_body(option: str) -> None:
    body = network(option, **OVERRIDES.get(option, {})).body
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
    out = preprocessed(images, 4, 3, mean, std)
    for channel in range(3):
        assert torch.allclose(out[:, channel], (images[:, channel] - mean[channel]) / std[channel], atol=1e-6)
    assert preprocessed(torch.tensor([[[[0.0, 1.0], [0.5, 0.25]]]]), 2, 1, 0.5, 0.5).flatten().tolist() == [
        -1,
        1,
        0,
        -0.5,
    ]


def test_gray_is_repeated_and_rgb_is_converted_to_luma() -> None:
    gray = torch.rand(2, 1, 4, 4)
    assert torch.equal(preprocessed(gray, 4, 3), gray.expand(2, 3, 4, 4))
    colours = torch.eye(3).view(3, 3, 1, 1)  # red, green, blue
    assert torch.allclose(preprocessed(colours, 1, 1).flatten(), torch.tensor([0.299, 0.587, 0.114]))
    with pytest.raises(ValueError, match="4 channels"):
        preprocessed(torch.rand(1, 4, 2, 2), 2, 3)


def test_downscaling_uses_antialias_and_upscaling_is_bilinear() -> None:
    stripes = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(24)[None, None, None, :].expand(1, 1, 96, 96)
    assert preprocessed(stripes, 24, 1)[..., 2:-2].sub(0.25).abs().max() < 0.05  # without antialias all are 0
    ramp = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1, 1, 2, 2)
    assert torch.allclose(preprocessed(ramp, 4, 1)[0, 0, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))
    assert preprocessed(torch.full((1, 3, 31, 77), 0.3), 48, 3).sub(0.3).abs().max() < 1e-6


def test_a_network_that_crops_sees_the_centre_of_whole_images() -> None:
    images = torch.rand(2, 1, 6, 8)
    echo = FERNetwork(IdentityBody(), image_size=3, channels=1, mean=0.0, std=1.0)
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


def test_is_dense_is_false_for_depthwise_networks() -> None:
    dense = {o: is_dense(network(o, **OVERRIDES.get(o, {}))) for o in OPTIONS}
    depthwise = {"efficientnet", "emonext", "mobilenetv2", "mobilenetv3"}
    assert {option for option, is_it in dense.items() if not is_it} == depthwise


def test_state_dict_keys_match_saved_files() -> None:
    keys = {".".join(k.split(".")[:3]) for k in network().state_dict()}
    blocks, head = {f"body.blocks.{i}" for i in range(3)}, {f"body.head.{i}" for i in (0, 1, 4)}
    assert keys == {"mean", "std"} | blocks | head
    assert "body.blocks.2.4.running_var" in network().state_dict()
    keys = {k for k in network("timm", **TINY, hidden=8).state_dict() if not k.startswith("body.backbone.")}
    assert keys == {"mean", "std"} | {f"body.head.{i}.{w}" for i in (0, 3) for w in ("weight", "bias")}


def test_untrained_predictions_are_near_uniform() -> None:
    for option in set(OPTIONS) - {"timm"}:
        built = network(option, **OVERRIDES.get(option, {})).train()
        loss = F.cross_entropy(built(torch.rand(16, 1, 48, 48)), torch.arange(16) % 7)
        assert loss.item() == pytest.approx(1.946, abs=0.1)


@pytest.mark.parametrize(
    ("option", "changes", "message"),
    [
        ("custom_cnn", {"image_size": 7}, r"model\.image_size=7 .* at least 8"),
        ("sequential_cnn", {"image_size": 4}, r"model\.image_size=4 .* at least 8"),
        ("vgg", {"image_size": 15}, r"model\.image_size=15 .* at least 16"),
        ("timm", {"name": "inception_v3"}, r"model\.image_size=48 does not work with inception_v3"),
        ("timm", {}, r"model\.name must be given"),
        ("timm", {"name": "resnet19"}, "not a timm model; the nearest names: resnet18"),
        ("timm", {"name": "resnet18.a9_in1k"}, r"the nearest names: resnet18\.a"),
        ("timm", {**TINY, "channels": 1}, r"model\.mean has 3 values, but model\.channels is 1"),
        ("custom_cnn", {"channels": 2}, r"model\.channels is 2"),
        ("custom_cnn", {"std": 0}, r"model\.std is 0"),
        ("custom_cnn", {"beauty": 1}, "beauty"),
        ("custom_cnn", {"width": -1}, "do not fit"),
        ("custom_cnn", {"_target_": "torch.nn.Linear"}, r"must be under fer_lightning\.models\."),
        ("custom_cnn", {"_target_": "fer_lightning.models.network.torch.nn.Linear"}, "there is no module"),
        ("custom_cnn", {"_target_": "fer_lightning.models.network.build_network"}, "is not a network"),
        ("custom_cnn", {"_target_": "fer_lightning.models.missing.Net"}, "no module fer_lightning.models.missing"),
    ],
)
def test_invalid_settings_are_named(option: str, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        network(option, **changes)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"model\.mean is missing"):
        build_network({k: v for k, v in config("custom_cnn").items() if k != "mean"}, 7)


@pytest.fixture
def backbone() -> dict[str, Tensor]:
    """Weights with timm's parameter names, with classifier and three input channels, as for ImageNet."""
    torch.manual_seed(1)
    return timm.create_model("test_resnet", num_classes=1000).state_dict()


def test_backbone_weights_with_timms_names_load(backbone: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "test_resnet.safetensors"
    safetensors.torch.save_file(backbone, path)
    loaded = network("timm", **TINY, weights=str(path), pretrained=True)  # the file replaces the download
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
    ("corrupt", "message"),
    [
        (lambda w: w.pop("layer1.0.conv1.weight"), r"Missing key.*layer1\.0\.conv1\.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), r"Unexpected key.*extra"),
        (
            lambda w: w.update({"layer1.0.conv1.weight": torch.zeros(1)}),
            r"size mismatch for layer1\.0\.conv1",
        ),
    ],
)
def test_mismatched_backbone_weights_are_named(backbone, tmp_path: Path, corrupt, message: str) -> None:
    corrupt(backbone)
    path = tmp_path / "corrupt.safetensors"
    safetensors.torch.save_file(backbone, path)
    with pytest.raises(ValueError, match=message) as caught:
        network("timm", **TINY, weights=str(path))
    assert "corrupt.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["custom_cnn", "timm"])
@pytest.mark.parametrize("form", ["safetensors", "pt", "ckpt"])
def test_a_network_is_restored_from_its_file(option: str, form: str, tmp_path: Path) -> None:
    changes = TINY if option == "timm" else {}
    torch.manual_seed(5)
    source = build_network(config(option, **changes), 7).eval()
    path = tmp_path / f"network.{form}"
    if form == "safetensors":
        safetensors.torch.save_file(source.state_dict(), path)
    elif form == "pt":
        torch.save(source.state_dict(), path)
    else:  # as in a Lightning checkpoint
        nested = {f"network.{k}": v for k, v in source.state_dict().items()}
        torch.save({"state_dict": {**nested, "loss.weight": torch.ones(7)}, "epoch": 3}, path)
    images = torch.rand(3, 1, 48, 48)
    assert not torch.equal(network(option, **changes).eval()(images), source(images))
    assert torch.equal(network(option, **changes, weights=str(path)).eval()(images), source(images))


def test_files_without_weights_of_this_network_are_refused(backbone: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.weights=nowhere\.pt: there is no such file"):
        network(weights="nowhere.pt")
    for name in ("text.safetensors", "text.pt", "text.onnx", "empty.safetensors", "empty.pth"):
        path = tmp_path / name
        path.write_text("not weights" if name.startswith("text") else "")
        with pytest.raises(ValueError, match=name):
            network(weights=str(path))
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(backbone, path)
    with pytest.raises(ValueError, match=r"no weights of this network \(its first key: bn1\."):
        network(weights=str(path))
    safetensors.torch.save_file(network(num_classes=5).state_dict(), path)
    with pytest.raises(ValueError, match=r"size mismatch for body\.head\.4"):
        network(weights=str(path))


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Exploit:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state_dict": Exploit()}, tmp_path / "exploit.pt")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_weights(network(), tmp_path / "exploit.pt")
    assert not (tmp_path / "executed").exists()


def test_a_failed_download_of_pretrained_weights_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens at the hub's address: it fails at once, where the hub's client would retry for a minute."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    sleeps: list[float] = []
    monkeypatch.setattr(time, "sleep", sleeps.append)
    with pytest.raises(ValueError, match=r"resnet18.*model\.weights=.*model\.pretrained=false") as caught:
        network("resnet18", pretrained=True)
    assert "\n" not in str(caught.value)
    assert sleeps == []


def test_pretrained_without_published_weights_is_refused() -> None:
    with pytest.raises(ValueError, match=r"convnext_atto_rms could not be downloaded.*No pretrained weights"):
        network("timm", name="convnext_atto_rms", pretrained=True)


def test_export_with_a_dynamic_batch() -> None:
    built = network().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(built, (torch.rand(2, 1, 48, 48),), dynamic_shapes={"images": {0: batch}})
    images = torch.rand(5, 1, 48, 48)
    assert torch.allclose(program.module()(images), built(images), atol=1e-5)
