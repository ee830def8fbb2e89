"""`python -m fer_lightning leaks`: one model under the official and under leaky protocols, and the effect of each."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from fer_lightning.cli.help import wrap_text
from fer_lightning.studies.leaks.page import COLUMNS, cells, write
from fer_lightning.studies.leaks.records import PROTOCOLS, read_records
from fer_lightning.studies.leaks.runner import run

HELP = """usage: python -m fer_lightning leaks [run|write] [key=value ...]

Trains one model under the official protocol and under each leaky one, with the same epochs and settings, and shows by
how much each leak raises the accuracy.

  leaks                      lists the protocols and their scores
  leaks run [key=value ...]  trains each protocol without a record in results/leaks, one after another, then writes;
                             the same command continues after an interruption
  leaks write                writes docs/LEAKS.md and docs/images/leaks.png from the records

The default settings are experiment=sequential_cnn augmentation=none trainer.max_epochs=20 tracking=none; overrides
take precedence. Runs are stored in outputs/leaks, in one folder per settings; move records of other settings out of
results/leaks first:

  python -m fer_lightning leaks run data.path=fer2013.csv trainer.max_epochs=40
"""


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand and return its exit status."""
    if "--help" in arguments or "-h" in arguments:
        print(wrap_text(HELP))
        return 0
    action, overrides = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    invalid = [o for o in overrides if "=" not in o or o.startswith(("protocol=", "-"))]
    if action not in ("", "run", "write") or invalid or (overrides and action != "run"):
        raise ValueError(
            f"{' '.join(arguments)!r} is invalid: give no arguments, 'write', or 'run' with overrides key=value other "
            "than protocol"
        )
    status = run(overrides) if action == "run" else 0
    records = read_records()
    if action == "write" or (action and records):
        write()
    table = Table(title="Leaks", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in (*COLUMNS[:4], "gain"):
        table.add_column(column, no_wrap=column in (COLUMNS[0], COLUMNS[3]))
    for protocol in PROTOCOLS:
        *first, gain_cell = cells(protocol, records)[:5]
        table.add_row(*first, gain_cell.partition(" ")[0])
    Console().print(table)
    return status
