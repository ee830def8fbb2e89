"""Malformed command lines of train.py and of the subcommands."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from unittest import mock

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import CompactHydraException
from hypothesis import strategies as st

from fer_lightning.__main__ import VERBS
from fer_lightning.__main__ import main as verb
from fer_lightning.cli.command_line import check_command_line, overrides_last
from fer_lightning.config import CONF
from fer_lightning.run.resolvers import register_resolvers
from fer_lightning.run.train import train
from malformed.images import image
from malformed.target import Target

KEYS = [
    *("optimizer.lr", "optimizer.weight_decay", "trainer.batch_size", "trainer.max_epochs", "trainer.precision"),
    *("model.width", "model.image_size", "model.channels", "model.dropout", "model.mean", "model.weights", "model"),
    *("loss.gamma", "loss", "optimizer", "scheduler", "trainer", "data", "data.count", "data.path", "data.workers"),
    *("eval", "eval.average", "seed", "objective", "objective_mode", "second_objective", "resume", "callbacks"),
    *("augmentation", "protocol", "finetune", "experiment", "paths.results_dir", "trainer.on_nan", "trainer.devices"),
    *("model._target_", "loss._target_", "eval.views._target_", "data.source._target_", "callbacks.ema.decay"),
]


VALID_CHOICES = [
    *("model=vgg", "loss=focal", "scheduler=plateau", "augmentation=strong", "callbacks=ema", "finetune=frozen"),
    *("eval=tta", "protocol=kfold", "trainer=cpu", "model=timm", "experiment=custom_cnn", "data=folder"),
]


override_values = st.one_of(
    st.sampled_from(["", "0", "-1", "1", "nan", "inf", "null", "true", "[1,2]", "{a:1}", "'", "x", "auto", "1e-3"]),
    st.sampled_from(
        ["os.system", "1,2", "choice(1,2)", "${seed}", "${nothing}", "???", "../..", "~nobody/x", "a" * 900, "9" * 40]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
)


override_texts = st.one_of(
    st.builds("{}={}".format, st.sampled_from(KEYS), override_values),
    st.builds("{}{}={}".format, st.sampled_from("+~"), st.sampled_from(KEYS), override_values),
    st.sampled_from(VALID_CHOICES),
    st.builds(
        "{}={}".format, st.sampled_from(["optimiser.lr", "model.widht", "trainer", "modle", "a.b.c"]), override_values
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
)


trainings = st.lists(override_texts, min_size=1, max_size=4)


class ReachedDataError(Exception):
    """All checks before reading data have passed."""


def feed_training(arguments: list[str], folder: Path) -> None:
    """Run train.py up to reading data."""
    arguments = overrides_last(arguments)
    if any(argument.startswith("-") for argument in arguments):
        return  # a flag is for Hydra's own parser
    register_resolvers()
    GlobalHydra.instance().clear()
    check_command_line(CONF, arguments)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        outputs = [f"paths.output_dir={folder}/run", f"paths.mlruns_dir={folder}/mlruns"]
        config = compose("config", [*arguments, *outputs])
    with mock.patch("fer_lightning.run.train.prepare_data", side_effect=ReachedDataError):
        try:
            train(config)
        except ReachedDataError:
            return


VERB_ARGUMENTS = {
    "app": ["--port", "--model", "--address", "99999999", "-1", "x", "nowhere.ckpt"],
    "audit": ["predictions=nowhere", "predictions=", "data=fer2013", "data.path=nowhere", "data=x", "write"],
    "baselines": ["write", "run", "nothing", "--seeds", "x", "--minutes", "-1", "--seeds=", "--minutes=x"],
    "leaks": ["write", "x", "protocol=official", "run -"],
    "predict": ["--whole", "--detect", "--fps", "--out", "--format", "--graph", "--model", "--detector", "x.png", "-"],
}


CHECKPOINT_ARGUMENTS = [
    *(
        "checkpoint=",
        "checkpoint=nowhere",
        "checkpoint=.",
        "checkpoint=junk.ckpt",
        "eval=x",
        "eval.split=",
        "=",
        "json=",
    ),
    *("members=[]", "members=[junk.ckpt]", "members=*", "recipe=x", "recipe=../x", "weights=x", "out=", "format=x"),
    *("int8=maybe", "data.path=x", "junk.ckpt", ".", "nowhere"),
]


@st.composite
def verb_arguments(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from([*VERBS, "predict", "nothing"]))
    known = st.sampled_from(VERB_ARGUMENTS.get(name, CHECKPOINT_ARGUMENTS))
    arguments = draw(st.lists(known | override_texts, max_size=5))
    if name == "audit":
        arguments.append("data=fer2013")
    if name in ("baselines", "leaks") and "run" in arguments:
        arguments += ["nothing"]  # starts no training
    if name == "predict" and "-" in arguments:
        arguments.remove("-")
    return [name, *arguments]


def feed_verb(arguments: list[str], folder: Path) -> None:
    (folder / "junk.ckpt").write_bytes(b"junk")
    (folder / "x.png").write_bytes(image())
    register_resolvers()
    stderr = io.StringIO()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(stderr),
        mock.patch("fer_lightning.app.command.serve", return_value=0),
        mock.patch("fer_lightning.studies.baselines.command.write"),
        mock.patch("fer_lightning.studies.leaks.command.write"),
        mock.patch("subprocess.Popen", side_effect=AssertionError("a process was started")),
    ):
        try:
            status = verb(arguments)
        except SystemExit as stop:
            status = int(stop.code or 0)
    assert "Traceback" not in stderr.getvalue()
    if status:
        assert status in (1, 2)
        raise ValueError(stderr.getvalue() or "it printed its help")


TARGETS = [
    Target("arguments of train.py", trainings, feed_training, (ValueError, CompactHydraException)),
    Target("arguments of fer_lightning", verb_arguments(), feed_verb, (ValueError,)),
]
