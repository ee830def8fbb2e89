"""Malformed inputs for every reader of files and command lines, and the errors that each may raise.

Each input is either accepted or refused: by the reader's own error class with one sentence, or by an exit status with a
line on stderr. `test_malformed.py` tests a few of each kind, `benchmarks/malformed.py` thousands.
"""

from malformed import bundles, caches, checkpoints, command_lines, data_sets, images, runs
from malformed.target import Target

__all__ = ["TARGETS", "Target"]

TARGETS = [
    *data_sets.TARGETS,
    *images.TARGETS,
    *caches.TARGETS,
    *checkpoints.TARGETS,
    *bundles.TARGETS,
    *runs.TARGETS,
    *command_lines.TARGETS,
]
