"""Recipes of ensembles (conf/ensemble): which nets are members, how each is trained, and how they vote."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from fer_lightning.config import CONF, plain

RUNS = Path("outputs") / "baselines"
"""Where members of ensembles and rows of the results table are trained."""


@dataclass(frozen=True)
class Recipe:
    """An ensemble before it is trained (conf/ensemble).

    Attributes:
        name: `khanzada7` for conf/ensemble/khanzada7.yaml.
        members: The command line of each member's training, by the name of its run.
        weights: `equal` or `fitted`.
        choose: `all` or `greedy`.
    """

    name: str
    members: Mapping[str, Sequence[str]]
    weights: str = "equal"
    choose: str = "all"

    @classmethod
    def named(cls, name: str) -> Recipe:
        """The recipe of that name in conf/ensemble.

        Raises:
            ValueError: There is none; the message lists those there are.
        """
        path = CONF / "ensemble" / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
            raise ValueError(f"recipe={name}: there is no such ensemble; there are {known}")
        return cls.read(path)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """The recipe in a file.

        Raises:
            ValueError: A key is missing or unknown.
        """
        try:
            return cls(name=path.stem, **plain(OmegaConf.load(path)))
        except TypeError as error:
            raise ValueError(f"{path}: {str(error).removeprefix('Recipe.__init__() ')}") from None

    def runs(self) -> dict[str, Path]:
        """The folder of each member's run."""
        return {member: RUNS / member for member in self.members}

    def missing(self) -> list[str]:
        """The members whose training has not ended yet."""
        return [member for member, run in self.runs().items() if not (run / "record.json").is_file()]

    def trained(self) -> list[Path]:
        """The runs of all members.

        Raises:
            FileNotFoundError: Some are not trained; the message says how to.
        """
        if missing := self.missing():
            commands = [
                shlex.join(["python", "train.py", *self.members[name], f"hydra.run.dir={RUNS / name}"])
                for name in missing
            ]
            raise FileNotFoundError(
                f"{len(missing)} of the {len(self.members)} members of {self.name} are not trained yet; train with\n"
                + "\n".join(commands)
            )
        return list(self.runs().values())
