import shlex
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.runs import TINY, edited_checkpoint

from fer_lightning import __main__ as entry
from fer_lightning.config import to_container
from fer_lightning.models.network import build_network
from fer_lightning.models.weights import weights_origin
from fer_lightning.run.train import train
from fer_lightning.training.module import load_module


@pytest.fixture
def run(tiny_runs: list[Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_runs[0], tmp_path / "trained"))


@pytest.mark.usefixtures("no_figures", "faces_drawn_once")
def test_a_pruned_network_is_fine_tuned_by_the_printed_command(
    run: Path, tmp_path: Path, request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    best = run / "checkpoints" / "best.ckpt"
    with edited_checkpoint(best) as content:
        content["hyper_parameters"]["provenance"]["config_sources"] = ["--config-dir=my"]
    assert entry.main(["prune", f"checkpoint={run}", "model.width=16", "model.hidden=64"]) == 0
    shown = capsys.readouterr().out
    original = load_module(best).network
    pruned = safetensors.torch.load_file(run / "pruned.safetensors")
    first = original.state_dict()["body.layers.0.0.weight"]
    first_pruned = pruned["body.layers.0.0.weight"]
    assert len(first_pruned) == 16 < len(first)
    kept = [channel for channel in first if any(torch.equal(channel, other) for other in first_pruned)]
    assert len(kept) == 16
    command = next(line for line in shown.splitlines() if line.startswith("python train.py --config-dir=my "))
    overrides = [o for o in shlex.split(command)[3:] if not o.startswith(("trainer.max_epochs", "optimizer.lr"))]
    composed = request.getfixturevalue("composed")  # after the subcommand, which composes too
    train(composed(*overrides, "tracking=none", "optimizer.lr=1e-12", "trainer.max_epochs=1", "seed=3"))
    fine_tuned = load_module(tmp_path / "run" / "checkpoints" / "best.ckpt").network
    assert torch.allclose(fine_tuned.state_dict()["body.layers.0.0.weight"], first_pruned, atol=1e-6)


def test_pruned_weights_name_the_earlier_trainings(run: Path) -> None:
    earlier = {"data": "elsewhere", "data_fingerprint": "f", "protocol": "official", "config": {"protocol": {}}}
    with edited_checkpoint(run / "checkpoints" / "best.ckpt") as content:
        content["hyper_parameters"]["provenance"]["earlier"] = [earlier]
    assert entry.main(["prune", f"checkpoint={run}", "model.width=16", "model.hidden=64"]) == 0
    assert weights_origin(run / "pruned.safetensors")["earlier"] == [earlier]


@pytest.mark.usefixtures("no_figures", "faces_drawn_once")
def test_experiment_pruned_mobile_starts_from_weights(composed, tmp_path: Path) -> None:
    overrides = ["experiment=pruned_mobile", *TINY, "eval=plain", "model.widths=[8,8,16]"]
    model = to_container(composed(*overrides).model) | {"weights": None}
    file = tmp_path / "pruned.safetensors"
    safetensors.torch.save_file(build_network(model, 7).state_dict(), file)
    train(composed(*overrides, f"model.weights={file}"))
    assert (tmp_path / "run" / "record.json").is_file()


def test_an_equally_wide_model_gives_a_message(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["prune", f"checkpoint={run}"]) == 2
    assert capsys.readouterr().err.strip() == (
        "fer prune: the narrower model is as wide as the trained one: give fewer channels, such as model.widths=[...]"
    )
    assert not (run / "pruned.safetensors").exists()
