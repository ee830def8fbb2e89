"""`python -m fer_lightning VERB`, also installed as `fer`: work over finished runs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from fer_lightning.files import error_message

VERBS = {
    "app": ("fer_lightning.app.command", "faces and results in a browser"),
    "audit": ("fer_lightning.studies.audit.command", "what is wrong with a data set: copies, no faces, label errors"),
    "baselines": ("fer_lightning.studies.baselines.command", "published systems beside what was measured here"),
    "calibrate": ("fer_lightning.studies.calibrate", "fit a checkpoint's temperature, reliability diagrams"),
    "compare": ("fer_lightning.studies.compare", "whether one net is better than another: McNemar's test"),
    "ensemble": ("fer_lightning.studies.ensemble.command", "trained nets that vote"),
    "evaluate": (
        "fer_lightning.studies.evaluate",
        "measure a checkpoint again: another part, data set or views",
    ),
    "export": ("fer_lightning.export.command", "a run or an ensemble as ONNX, int8, ExecuTorch, with a model card"),
    "leaks": ("fer_lightning.studies.leaks", "what each shortcut of the literature adds to an accuracy"),
    "predict": ("fer_lightning.inference.command", "expressions in pictures, folders and videos"),
    "prune": ("fer_lightning.studies.prune", "a narrower net out of a trained one, to be trained on"),
}
"""Each verb with its module, which is imported only when the verb is asked for, and what it does."""


def usage() -> str:
    """What `--help` prints."""
    verbs = "\n".join(f"  {verb:<10} {about}" for verb, (_, about) in VERBS.items())
    return (
        "usage: python -m fer_lightning VERB [key=value ...]\n\n"
        f"{verbs}\n\n"
        "`python -m fer_lightning VERB --help` describes one verb, `python train.py --help` training.\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Returns:
        The exit status: 0 done, 2 wrong use, 130 stopped by Ctrl-C, or the verb's own. A mistake is one sentence.
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
        print(f"fer: there is no verb {words[0]!r}; there are: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    try:
        status: int = importlib.import_module(VERBS[words[0]][0]).main(words[1:])
    except KeyboardInterrupt:
        return 130  # as shells have it
    except (ValueError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"fer {words[0]}: {error_message(error)}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
