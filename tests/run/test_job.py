"""The commands that start and resume a run."""

import json
import shlex
from pathlib import Path

from helpers.processes import run_train
from helpers.runs import TINY, load_checkpoint

from fer_lightning.run.job import Job


def test_a_run_without_a_checkpoint_restarts_from_the_given_checkpoint() -> None:
    job = Job({}, ("seed=1", "resume=/backup/last.ckpt"), None, run_dir=("hydra.run.dir=here",))
    without, with_checkpoint = (job.resume_command(has_checkpoint=has) for has in (False, True))
    assert without == "python train.py seed=1 resume=/backup/last.ckpt hydra.run.dir=here"
    assert with_checkpoint == "python train.py seed=1 hydra.run.dir=here resume=auto"


def test_commands_keep_what_chose_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "my" / "experiment").mkdir(parents=True)
    (tmp_path / "my" / "mine.yaml").write_text("defaults: [config, _self_]\nseed: 7\n")
    (tmp_path / "my" / "experiment" / "own.yaml").write_text("# @package _global_\n")
    arguments = ["--config-dir=my", "--config-name=mine", *TINY, "experiment=own"]
    done = run_train(*arguments, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert (record["seed"], record["command"]) == (7, shlex.join(["python", "train.py", *arguments]))
    provenance = load_checkpoint(tmp_path / "run")["hyper_parameters"]["provenance"]
    assert provenance["config_sources"] == ["--config-dir=my", "--config-name=mine"]
    job = Job({}, ("seed=1",), None, sources=("--config-dir=my",))
    assert job.resume_command(has_checkpoint=True) == "python train.py --config-dir=my seed=1 resume=auto"
