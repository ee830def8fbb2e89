"""The text of `--help`, wrapped to the width of the terminal."""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path
from string import Template

from omegaconf import OmegaConf

from fer_lightning.cli.command_line import groups


def help_text(conf: Path) -> str:
    """Return the text of `--help`: `hydra.help` of config.yaml with every group and its options, defaults marked by *.

    Hydra's own help takes seconds with many groups, since it copies all configurations for each group.

    Args:
        conf: The folder of the configuration.
    """
    config = OmegaConf.load(conf / "config.yaml")
    defaults = {item for entry in config.defaults if not isinstance(entry, str) for item in entry.items()}
    listing = ""
    for group in groups(conf):
        names = sorted(option.stem for option in (conf / group).glob("*.yaml"))
        if names:
            listing += f"{group}: {', '.join(name + '*' * ((group, name) in defaults) for name in names)}\n"
    return Template(config.hydra.help.template).substitute(APP_CONFIG_GROUPS=listing)


def wrap_text(text: str, width: int | None = None) -> str:
    """Wrap text between words at the width of the terminal.

    Consecutive lines of prose are one paragraph. A line of two columns, separated by two or more spaces, is continued
    below its second column; if that would be narrow, the second column starts on a new line.

    Args:
        text: Lines of any length.
        width: Columns; by default those of the terminal, at most 120.
    """
    width = width or min(shutil.get_terminal_size().columns, 120)
    lines: list[str] = []
    paragraph: list[str] = []

    def fill(line: str, indent: str) -> list[str]:
        return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)

    for line in [*text.splitlines(), ""]:
        columns = re.match(r"( *)(\S+(?: \S+)*)( {2,})(?=\S)", line)
        if line and not columns and not line.startswith(" ") and not re.match(r"\S+: |python |mlflow ", line):
            paragraph.append(line)
            continue
        lines += fill(" ".join(paragraph), "") if paragraph else []
        paragraph = []
        if not columns or len(line) <= width:
            lines += fill(line, " " * (len(line) - len(line.lstrip()) + 4)) if line.strip() else [""]
        elif columns.end() <= width // 2:
            lines += fill(line, " " * columns.end())
        else:
            indent = columns[1] + "    "
            lines += [*fill(columns[1] + columns[2], indent), *fill(indent + line[columns.end() :], indent)]
    return "\n".join(lines[:-1]) + ("\n" if text.endswith("\n") else "")
