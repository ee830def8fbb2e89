import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from helpers.runs import edited_checkpoint

from fer_lightning import __main__ as entry
from fer_lightning.studies.trained import TrainedRun, compose_for


@pytest.fixture
def run(tiny_runs: list[Path], tmp_path: Path) -> Path:
    """A copy of a finished tiny run, whose checkpoint contains its overrides."""
    return shutil.copytree(tiny_runs[1], tmp_path / "run")


def test_evaluate_reproduces_the_scores_of_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["evaluate", f"checkpoint={run}/checkpoints/best.ckpt"]) == 0
    before = json.loads((run / "record.json").read_text())
    after = json.loads((run / "evaluate_identity_test" / "record.json").read_text())
    assert after["test"] == before["test"]
    assert "macro F1" in capsys.readouterr().out


def test_a_folder_in_brackets_is_printed_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run.rename(run.with_name("run[a]"))
    assert entry.main(["evaluate", f"checkpoint={run}", "data.count=220"]) == 0
    assert f"report: {run}/evaluate_identity_test_" in capsys.readouterr().out


def test_evaluate_with_other_views_and_another_part(run: Path) -> None:
    checkpoint = f"checkpoint={run}/checkpoints/best.ckpt"
    assert entry.main(["evaluate", checkpoint, "eval=tta", "eval.split=val"]) == 0
    after = json.loads((run / "evaluate_shifts_val" / "record.json").read_text())
    assert after["evaluation"]["split"] == "val"
    assert after["val"]["n"] > 0
    assert (run / "evaluate_shifts_val" / "confusion_matrix.png").exists()


def test_reports_of_other_settings_and_checkpoints_have_their_own_folder(run: Path) -> None:
    assert entry.main(["evaluate", f"checkpoint={run}/checkpoints/last.ckpt", "eval=tta", "eval.views.shift=0.1"]) == 0
    assert (run / "evaluate_shifts_test_last_views.shift=0.1" / "record.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evaluate", "checkpoint=nowhere.ckpt"], "nowhere.ckpt"),
        (["evaluate", "eval=tta"], "checkpoint="),
        (["evaluat"], "evaluate"),
        ([], ""),
    ],
)
def test_wrong_arguments_give_a_message_and_status_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(arguments) == 2
    shown = capsys.readouterr()
    assert expected in shown.err + shown.out
    assert "Traceback" not in shown.err


def test_evaluate_refuses_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in {"text.ckpt": b"hello", "empty.ckpt": b""}.items():
        (tmp_path / name).write_bytes(content)
        assert entry.main(["evaluate", f"checkpoint={tmp_path / name}"]) == 2
        assert "not a checkpoint" in capsys.readouterr().err
    torch.save({"a": 1}, tmp_path / "other.ckpt")
    assert entry.main(["evaluate", f"checkpoint={tmp_path}/other.ckpt"]) == 2
    assert "not a checkpoint" in capsys.readouterr().err


def test_evaluate_names_options_that_do_not_exist(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = f"checkpoint={run}/checkpoints/best.ckpt"
    assert entry.main(["evaluate", checkpoint, "eval=twice"]) == 2
    assert "twice" in capsys.readouterr().err


def test_help_lists_the_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["--help"]) == 0
    assert "evaluate" in capsys.readouterr().out
    assert entry.main(["evaluate", "--help"]) == 0
    assert "eval=tta" in capsys.readouterr().out


def test_images_trained_on_are_not_used_for_evaluation(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["evaluate", f"checkpoint={run}", "protocol=kaggle", "eval.split=val"]) == 2
    assert "which trains on 13 of the 13 images of val under kaggle" in capsys.readouterr().err
    assert entry.main(["evaluate", f"checkpoint={run}", "protocol=kaggle"]) == 2
    assert "which selects on 20 of the 40 images of test under kaggle" in capsys.readouterr().err
    assert entry.main(["evaluate", f"checkpoint={run}", "protocol=kfold"]) == 0  # the same PrivateTest
    checkpoint = run / "checkpoints" / "best.ckpt"
    with edited_checkpoint(checkpoint) as saved:
        saved["hyper_parameters"]["provenance"]["protocol"] = "leaky_pooled"
    assert entry.main(["evaluate", f"checkpoint={run}", "protocol=official"]) == 2
    assert "leaks" in capsys.readouterr().err


def test_other_forms_of_what_was_trained_on_are_measured_where_the_official_parts_differ(run: Path) -> None:
    trained = TrainedRun.load(run, ["protocol=kfold"])
    trained.provenance["data"] = "fer2013"
    for name, named in (("fer2013_kaggle", "fer2013"), ("fer2013", "another version of fer2013")):
        trained.datamodule.faces = replace(trained.faces, name=name, fingerprint="0" * 64)
        trained.check_not_trained_on("test")  # PrivateTest in every fold
        with pytest.raises(
            ValueError,
            match=rf"on {named} under official: it may have been trained or selected on .* of val .* under",
        ):
            trained.check_not_trained_on("val")
    trained.datamodule.faces = replace(trained.faces, name="RAF-DB")
    trained.check_not_trained_on("val")  # other faces


def test_a_network_of_a_leaky_protocol_or_of_unknown_provenance_is_never_measured(run: Path) -> None:
    trained = TrainedRun.load(run)
    trained.provenance["protocol"] = "leaky_pooled"
    trained.datamodule.split = replace(trained.split, name="leaky_pooled")
    with pytest.raises(
        ValueError, match=r"under leaky_pooled, which leaks: .*; train a network under protocol=official"
    ):
        trained.predict("test")
    with edited_checkpoint(run / "checkpoints" / "best.ckpt") as saved:
        del saved["hyper_parameters"]["provenance"]["data_fingerprint"]
    with pytest.raises(ValueError, match="the data of its training are unknown"):
        TrainedRun.load(run)


def test_view_options_of_an_experiment_do_not_apply_to_other_views() -> None:
    module = Mock(hparams={"provenance": {"overrides": ["experiment=wujie_resnet18"]}})
    assert compose_for(module, []).eval.views.size == 0.917
    assert "size" not in compose_for(module, ["eval=flip"]).eval.views
    assert compose_for(module, ["eval=ten_crop", "eval.views.size=0.9"]).eval.views.size == 0.9
    assert compose_for(module, ["eval=flip", "eval.views.size=0.9"]).eval.views.size == 0.9  # refused later
    assert compose_for(module, ["eval=plain", "eval.views=flip"]).eval.views == "flip"  # refused later too


def test_a_misspelt_argument_gives_the_nearest_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for override, sentence in (("eval=ttta", "did you mean 'tta'"), ("evl.split=val", "did you mean 'eval.split'")):
        assert entry.main(["evaluate", f"checkpoint={run}", override]) == 2
        message = capsys.readouterr().err
        assert sentence in message
        assert message.count("\n") == 1


def test_training_settings_cannot_be_overridden(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for override in ("model=vgg", "optimizer.lr=1", "+callbacks.x=1"):
        assert entry.main(["evaluate", f"checkpoint={run}", override]) == 2
        assert f"{override} is fixed by the training" in capsys.readouterr().err


def test_reports_on_other_data_have_their_own_folder(run: Path) -> None:
    for overrides in ([], ["data.count=220"], ["data.count=240"], ["protocol=kfold"]):
        assert entry.main(["evaluate", f"checkpoint={run}", *overrides]) == 0
    found = {path.parent.name for path in run.glob("evaluate_*/record.json")}
    assert {"evaluate_identity_test", "evaluate_identity_test_kfold_fold_0_of_5"} <= found
    assert len({name for name in found if name.startswith("evaluate_identity_test_synthetic_")}) == 2


def test_an_overridden_group_drops_the_keys_of_the_old_option(run: Path) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    with edited_checkpoint(checkpoint) as saved:
        saved["hyper_parameters"]["provenance"]["overrides"] += ["protocol=kfold", "protocol.fold=1"]
    assert TrainedRun.load(checkpoint, ["protocol=official"]).split.name == "official"


def test_a_protocol_of_another_conf_is_not_replaced_silently(run: Path) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    with edited_checkpoint(checkpoint) as saved:
        saved["hyper_parameters"]["provenance"]["config"]["protocol"] = {"_target_": "somewhere.kfold", "fold": 1}
    with pytest.raises(ValueError, match=r"_target_ kfold \(now official\); add protocol=NAME"):
        TrainedRun.load(checkpoint)
    assert TrainedRun.load(checkpoint, ["protocol=official"]).split.name == "official"


def test_views_of_another_conf_are_not_replaced_silently(run: Path) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    with edited_checkpoint(checkpoint) as saved:
        views = {"_target_": "fer_lightning.models.tta.shifts", "shift": 0.5}
        saved["hyper_parameters"]["provenance"]["config"]["eval"]["views"] = views
    with pytest.raises(ValueError, match=r"another eval here, views\._target_ shifts \(now \w+\).*; add eval=NAME"):
        TrainedRun.load(checkpoint)
    assert TrainedRun.load(checkpoint, ["eval=flip"]).views_name == "flip"


def test_options_of_another_conf_are_an_error_with_a_remedy(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    saved["hyper_parameters"]["provenance"]["overrides"] += ["experiment=own"]
    saved["hyper_parameters"]["provenance"]["config_sources"] = ["--config-dir=my"]
    torch.save(saved, checkpoint)
    assert entry.main(["evaluate", f"checkpoint={run}"]) == 2
    message = capsys.readouterr().err
    assert "experiment=own: there is no such option" in message
    assert f"{checkpoint} was trained with --config-dir=my: copy its options into conf/" in message


def test_the_device_that_a_network_was_trained_on_is_not_required_elsewhere(run: Path) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    with edited_checkpoint(checkpoint) as saved:
        saved["hyper_parameters"]["provenance"]["overrides"] += ["trainer.devices=[1]"]
    assert TrainedRun.load(checkpoint).config.trainer.devices == 1
    assert TrainedRun.load(checkpoint, ["trainer.devices=[1]"]).config.trainer.devices == [1]


def test_a_network_trained_in_several_processes_is_evaluated_in_one(run: Path) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    with edited_checkpoint(checkpoint) as saved:
        saved["hyper_parameters"]["provenance"]["overrides"] += ["trainer=ddp", "trainer.devices=2"]
    trained = TrainedRun.load(checkpoint)
    assert (trained.config.trainer.devices, trained.config.trainer.strategy) == (1, "auto")
    assert len(trained.predict("test").labels) == json.loads((run / "record.json").read_text())["test"]["n"]
