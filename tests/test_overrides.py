import json
from pathlib import Path

from fer_lightning import overrides
from fer_lightning.config import ROOT
from fer_lightning.overrides import (
    drop_overrides,
    drop_replaced,
    effective_overrides,
    is_under,
    key_of,
    merge_overrides,
    overrides_of,
    strip_folders,
    train_command,
    value_of,
    verb_command,
)


def test_the_key_precedes_the_equals_sign() -> None:
    given = ["optimizer.lr=1e-4", "+model.width=8", "++a.b=c=d", "~scheduler", "hydra/sweeper=fer_optuna"]
    assert [key_of(override) for override in given] == [
        "optimizer.lr",
        "model.width",
        "a.b",
        "scheduler",
        "hydra/sweeper",
    ]


def test_a_group_contains_its_keys_but_no_longer_names() -> None:
    assert is_under("paths.data_dir", "paths")
    assert is_under("hydra/sweeper", "hydra")
    assert is_under("data.path", "x", "data.path")
    assert not is_under("data.path_of_votes", "data.path")
    assert not is_under("data", "data.path")
    assert drop_overrides(["model=vgg", "+model.width=8", "models=a", "seed=1"], "model") == ["models=a", "seed=1"]


def test_the_last_value_of_a_key_wins() -> None:
    assert value_of(["seed=1", "+seed=2", "seeds=3"], "seed") == "2"
    assert value_of(["model.path=a=b"], "model.path") == "a=b"
    assert value_of(["~seed"], "seeds") is None


def test_a_new_option_of_a_group_replaces_its_earlier_keys() -> None:
    earlier = ["model=vgg", "model.width=8", "optimizer.lr=1", "seed=1"]
    assert drop_replaced(earlier, ["model=compact", "+optimizer.lr=2"]) == ["seed=1"]
    assert merge_overrides(earlier, ["model.width=4"]) == ["model=vgg", "optimizer.lr=1", "seed=1", "model.width=4"]


def test_overrides_without_effect_are_not_defining() -> None:
    chosen = ["experiment=custom_cnn", "optimizer.lr=1e-3"]
    without_effect = [
        "seed=0",
        "data.workers=2",
        "data.path=/x/fer2013.csv",
        "tracking=none",
        "resume=auto",
        "paths.a=b",
    ]
    assert effective_overrides([*without_effect, "+data.workers=2", *chosen, "hydra.run.dir=a"]) == chosen
    assert effective_overrides([*chosen, "seed=1"]) != effective_overrides(chosen)


def test_commands_are_ready_to_paste_and_hide_passwords() -> None:
    given = ["experiment=custom_cnn", "data.path=my faces.csv"]
    assert train_command(given) == "python train.py experiment=custom_cnn 'data.path=my faces.csv'"
    assert overrides_of(train_command(given)) == given
    shown = verb_command("evaluate", ["checkpoint=a b", "tracking.uri=http://me:secret@host"])
    assert shown == "python -m fer_lightning evaluate 'checkpoint=a b' 'tracking.uri=http://me:***@host'"
    hidden = train_command(["tracking.uri=http://host/?token=it's", "seed=1"])
    assert overrides_of(hidden) == ["tracking.uri=http://host/?token=***", "seed=1"]


def test_every_published_command_can_be_parsed() -> None:
    commands = [json.loads(path.read_text())["command"] for path in sorted((ROOT / "results").glob("*.json"))]
    trainings = [command for command in commands if command.startswith("python train.py ")]
    assert len(trainings) > 10
    for command in trainings:
        assert overrides.train_command(overrides_of(command)) == command
        assert value_of(overrides_of(command), "experiment")


def test_local_folders_are_removed(tmp_path: Path) -> None:
    assert strip_folders(f"data.path={tmp_path}/fer2013.csv") == "data.path=fer2013.csv"
    assert strip_folders("write") == "write"
    assert strip_folders("measured=outputs/a,/tmp/b") == "measured=a,b"
