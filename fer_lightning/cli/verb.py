"""The command line of a verb: its own words, changes to the configuration, and mistakes as one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from fer_lightning.cli.command_line import split_words
from fer_lightning.cli.help import wrapped
from fer_lightning.files import error_message
from fer_lightning.overrides import is_under, key_of
from fer_lightning.training.errors import stopped_by, user_errors

Act = Callable[[Mapping[str, str], Sequence[str]], int | None]
"""The action of a verb, given its own words and the overrides; returns None or an exit status."""


OF_A_TRAINING = dict.fromkeys(
    (
        "hydra",
        "resume",
        "search",
        "debug",
        "second_objective",
        "objective_mode",
        "paths.output_dir",
        "paths.results_dir",
    ),
    "it is for trainings alone",
)
"""Keys that no verb takes."""


def run_verb(
    name: str,
    about: str,
    act: Act,
    arguments: Sequence[str],
    own: Sequence[str] = ("checkpoint",),
    without_effect: Mapping[str, str] | None = None,
) -> int:
    """Runs a verb.

    Args:
        name: The verb.
        about: What `--help` prints.
        act: Does it.
        arguments: The command line behind the verb.
        own: The keys that are the verb's; every other word is an override of the configuration. Where `checkpoint`
            is one of them it must be given.
        without_effect: Keys and groups that would change nothing here, with the reason; they are refused.

    Returns:
        The exit status: that of `act`, 0 done, 2 wrong use, 130 after Ctrl-C, 75 after SIGTERM.
    """
    if {"--help", "-h"} & set(arguments) or ("checkpoint" in own and not arguments):
        print(wrapped(about))
        return 0 if arguments else 2
    try:
        with user_errors():
            given, overrides = split_words(arguments, own)
            check_effect(overrides, {**OF_A_TRAINING, **(without_effect or {})})
            return act(given, overrides) or 0
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning gives them a status of its own
        if (status := stopped_by(stop)) is None:
            raise
        return status
    except (HydraException, OmegaConfBaseException, OSError) as error:
        print(f"fer {name}: {error_message(error)}", file=sys.stderr)
        return 2


def checkpoint_verb(
    name: str,
    about: str,
    act: Callable[[Path, Sequence[str]], object],
    arguments: Sequence[str],
    without_effect: Mapping[str, str] | None = None,
) -> int:
    """Runs a verb that takes one `checkpoint=` and overrides; see `run_verb`."""

    def act_on(given: Mapping[str, str], overrides: Sequence[str]) -> None:
        act(Path(given["checkpoint"]), overrides)

    return run_verb(name, about, act_on, arguments, without_effect=without_effect)


def check_effect(overrides: Sequence[str], without_effect: Mapping[str, str]) -> None:
    """Refuses flags, and overrides that would change nothing.

    Args:
        overrides: `key=value` words.
        without_effect: Keys and groups, with the reason.

    Raises:
        ValueError: There is one.
    """
    for word in overrides:
        if word.startswith("-"):
            raise ValueError(f"{word} is a flag, and a verb takes key=value alone")
        for name, reason in without_effect.items():
            if is_under(key_of(word), name):
                raise ValueError(f"{word} would change nothing: {reason}")
