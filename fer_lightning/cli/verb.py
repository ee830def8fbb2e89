"""The command line of a subcommand: its own arguments, overrides of the configuration, and errors as one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from fer_lightning.cli.command_line import split_arguments
from fer_lightning.cli.help import wrap_text
from fer_lightning.files import error_message
from fer_lightning.overrides import is_under, key_of
from fer_lightning.training.errors import interrupt_status, user_errors

Act = Callable[[Mapping[str, str], Sequence[str]], int | None]
"""The action of a subcommand, from its own arguments and the overrides; returns None or an exit status."""


TRAINING_ONLY = dict.fromkeys(
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
    "it is for trainings only",
)
"""Keys that no subcommand takes."""


def run_verb(
    name: str,
    about: str,
    act: Act,
    arguments: Sequence[str],
    own: Sequence[str] = ("checkpoint",),
    without_effect: Mapping[str, str] | None = None,
) -> int:
    """Run a subcommand.

    Args:
        name: The subcommand.
        about: The text of `--help`.
        act: The action.
        arguments: The command line after the subcommand.
        own: The subcommand's own keys; every other argument is an override of the configuration. `checkpoint` is
            required if it is one of them.
        without_effect: Keys and groups that have no effect here, with the reason; they are refused.

    Returns:
        The exit status: that of `act`, 0 success, 2 wrong usage, 130 after Ctrl-C, 75 after SIGTERM.
    """
    if {"--help", "-h"} & set(arguments) or ("checkpoint" in own and not arguments):
        print(wrap_text(about))
        return 0 if arguments else 2
    try:
        with user_errors():
            given, overrides = split_arguments(arguments, own)
            check_effect(overrides, {**TRAINING_ONLY, **(without_effect or {})})
            return act(given, overrides) or 0
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning sets another exit status
        if (status := interrupt_status(stop)) is None:
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
    """Run a subcommand that takes one `checkpoint=` and overrides; see `run_verb`."""

    def act_on(given: Mapping[str, str], overrides: Sequence[str]) -> None:
        act(Path(given["checkpoint"]), overrides)

    return run_verb(name, about, act_on, arguments, without_effect=without_effect)


def check_effect(overrides: Sequence[str], without_effect: Mapping[str, str]) -> None:
    """Refuse flags, and overrides without effect.

    Args:
        overrides: `key=value` arguments.
        without_effect: Keys and groups, with the reason.

    Raises:
        ValueError: An override has no effect.
    """
    for override in overrides:
        if override.startswith("-"):
            raise ValueError(f"{override} is a flag; this command takes only key=value arguments")
        for name, reason in without_effect.items():
            if is_under(key_of(override), name):
                raise ValueError(f"{override} would have no effect: {reason}")
