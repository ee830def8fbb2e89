"""Command lines of train.py, in separate processes."""

from pathlib import Path

import pytest
from helpers.processes import run_python, run_train
from helpers.runs import TINY_TRACKED
from helpers.tracking import client_of, parent_and_children

from fer_lightning.cli.command_line import check_command_line
from fer_lightning.config import CONF, ROOT
from fer_lightning.run.resolvers import register_resolvers


def test_help_lists_groups_and_options_without_importing_torch(tmp_path: Path) -> None:
    spy = "import sys, runpy; sys.argv = ['train.py', '--help']\n"
    spy += f"try: runpy.run_path(r'{ROOT / 'train.py'}', run_name='__main__')\n"
    spy += "finally: print('torch imported:', 'torch' in sys.modules)\n"
    done = run_python("-c", spy, cwd=tmp_path)
    for word in ("custom_cnn", "efficientnet", "weighted_cross_entropy", "batched_strong", "plateau", "kfold"):
        assert word in done.stdout
    assert "torch imported: False" in done.stdout


def test_cfg_job_resolves_everything(tmp_path: Path) -> None:
    done = run_train(
        "data=fer2013", "model=custom_cnn", "loss=focal", "loss.gamma=2", "optimizer=adamw",
        "scheduler=plateau", "augmentation=strong", "--cfg", "job", "--resolve", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "gamma: 2" in done.stdout
    assert "monitor: val/accuracy" in done.stdout


def test_default_data_is_synthetic_without_and_fer2013_with_a_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FER_DATA_DIR", raising=False)
    assert "synthetic_faces" in run_train("--cfg", "job", cwd=tmp_path).stdout
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "fer2013.csv").write_text("emotion,pixels,Usage\n")
    assert "read_fer2013" in run_train("--cfg", "job", cwd=tmp_path).stdout


def test_a_user_error_is_one_sentence(tmp_path: Path) -> None:
    done = run_train("data=fer2013", "tracking=none", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.startswith("FER2013 not found in ")
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "outputs").glob("*/*"))
    done = run_train("model=custom_cnm", cwd=tmp_path)
    assert done.returncode != 0
    assert "custom_cnn" in done.stderr


def test_a_multirun_has_a_parent_run_and_a_child_for_each_value(tmp_path: Path) -> None:
    done = run_train("model=sequential_cnn", "-m", "optimizer.lr=1e-4,3e-4", *TINY_TRACKED, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\nRuns by val/accuracy, best first." in done.stdout
    _, children = parent_and_children(client_of(tmp_path / "mlruns"))
    assert {run.data.params["optimizer.lr"] for run in children} == {"0.0001", "0.0003"}
    assert {run.data.params["model"] for run in children} == {"sequential_cnn"}
    assert all("optimizer.lr=" in run.info.run_name for run in children)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["optimizer.lr=1e-3,-1"], r"optimizer\.lr is -1; it must be a number above 0"),
        (["seed=range(1,4)", "trainer.batch_size=32,abc"], r"trainer\.batch_size is 'abc'"),
        (["model=vgg,custom_cnn", "model.dropout=0.1,0.2,2"], r"model\.dropout is 2; it must be"),
        (["model.dropout=3,0.1"], r"model\.dropout is 3; it must be"),
        (
            ["optimizer.lr=interval(1e-4,1e-2)", "trainer.batch_size=64,0", "hydra/sweeper=fer_optuna"],
            "batch_size is 0",
        ),
        (
            ["trainer.max_epochs=6,7", "trainer.check_val_every_n_epoch=2"],
            r"divides trainer\.max_epochs=7",
        ),
        (["seed=0,1", "resume=typo.ckpt"], r"resume=typo\.ckpt: there is no such checkpoint"),
        (["seed=range(3,1)"], r"seed=range\(3,1\) is an empty list"),
        (["seed=range(1,3,0)"], "range"),
        (["model.dropout=glob(*)"], "glob lists the options of a group, and model.dropout is not a group"),
        (["hydra/launcher=basic,joblib"], "Hydra's own settings are the same for all runs"),
    ],
)
def test_an_invalid_value_in_a_sweep_is_refused_before_any_training(overrides: list[str], sentence: str) -> None:
    register_resolvers()
    with pytest.raises(ValueError, match=sentence):
        check_command_line(CONF, ["-m", *overrides])


def test_sweeps_of_valid_values_pass() -> None:
    register_resolvers()
    lists = ["optimizer.lr=1e-3,2e-3", "model=compact", "model.widths=[4,8],[8,16]", "model.depths=[1,1]", "seed=1,2"]
    check_command_line(CONF, ["-m", *lists, "data=fer2013", "data.path='a b.csv',c.csv"])
    check_command_line(
        CONF, ["-m", "seed=${hydra:job.num}", "optimizer.lr=1e-3,2e-3", "+x={a:1},{b:2}", "model=glob(c*)"]
    )
    mixing = "fer_lightning.data.augmentation.mixing"
    mixes = f"{{_target_:{mixing}.MixUp,alpha:0.2}},{{_target_:{mixing}.CutMix,alpha:1.0}}"
    check_command_line(CONF, ["-m", f"augmentation.mix={mixes}"])
    check_command_line(CONF, ["-m", "hydra/sweeper=fer_optuna", "optimizer.lr=interval(1e-4,1e-2)", "seed=1,2"])
