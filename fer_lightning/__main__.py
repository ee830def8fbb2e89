"""`python -m fer_lightning VERB`, also installed as `fer`: subcommands for finished runs."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from fer_lightning.files import error_message

VERBS = {
    "app": ("fer_lightning.app.command", "predictions and results in a browser"),
    "audit": ("fer_lightning.studies.audit.command", "problems of a data set: duplicates, no faces, label errors"),
    "baselines": ("fer_lightning.studies.baselines.command", "published results and the measurements of this project"),
    "calibrate": ("fer_lightning.studies.calibrate", "fit a checkpoint's temperature, reliability diagrams"),
    "compare": ("fer_lightning.studies.compare.command", "whether one model is better than another: McNemar's test"),
    "ensemble": ("fer_lightning.studies.ensemble.command", "soft voting of trained models"),
    "evaluate": (
        "fer_lightning.studies.evaluate",
        "measure a checkpoint again: another part, data set or views",
    ),
    "export": ("fer_lightning.export.command", "a run or an ensemble as ONNX, int8, ExecuTorch, with a model card"),
    "leaks": ("fer_lightning.studies.leaks.command", "what each leak found in the literature adds to an accuracy"),
    "predict": ("fer_lightning.inference.command", "expressions in images, folders and videos"),
    "prune": ("fer_lightning.studies.prune", "prune channels of a trained model, for further training"),
}
"""Each subcommand with its module, which is imported only when needed, and its description."""


def usage() -> str:
    """Return the text of `--help`."""
    verbs = "\n".join(f"  {verb:<10} {about}" for verb, (_, about) in VERBS.items())
    return (
        "usage: python -m fer_lightning VERB [key=value ...]\n\n"
        f"{verbs}\n\n"
        "`python -m fer_lightning VERB --help` describes a subcommand, `python train.py --help` training.\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; a user error is printed as one sentence.

    Returns:
        The exit status: 0 success, 2 wrong usage, 130 after Ctrl-C, or the subcommand's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("--help", "-h", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        from fer_lightning import __version__

        print(__version__)
        return 0
    if words[0] not in VERBS:
        found = difflib.get_close_matches(words[0], VERBS, n=1)
        hint = f"did you mean {found[0]!r}?" if found else f"the subcommands are {', '.join(VERBS)}"
        print(f"fer: there is no subcommand {words[0]!r}; {hint}", file=sys.stderr)
        return 2
    try:
        status: int = importlib.import_module(VERBS[words[0]][0]).main(words[1:])
    except KeyboardInterrupt:
        return 130  # as in shells
    except (ValueError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"fer {words[0]}: {error_message(error)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:  # as in an installation that only predicts
        package = str(error.name).partition(".")[0]
        if package == "fer_lightning" or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"fer {words[0]} needs {package}, which is not installed: pip install -e . in a clone", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
