"""Recipes of ensembles (conf/ensemble): the members, the training of each, and the soft voting."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from fer_lightning.config import CONF, to_container
from fer_lightning.run_folder import RECORD

RUNS = Path("outputs") / "baselines"
"""Folder of the runs that are members of ensembles or rows of the results table."""

ENSEMBLES = Path("outputs") / "ensembles"
"""Folder of the reports of ensembles."""


@dataclass(frozen=True)
class Recipe:
    """An ensemble as configured in conf/ensemble.

    Attributes:
        name: `khanzada7` for conf/ensemble/khanzada7.yaml.
        members: The training overrides of each member, by the name of its run.
        weights: `equal` or `fitted`.
        choose: `all` or `greedy`.
    """

    name: str
    members: Mapping[str, Sequence[str]]
    weights: str = "equal"
    choose: str = "all"

    @classmethod
    def named(cls, name: str) -> Recipe:
        """Read the recipe with that name in conf/ensemble.

        Raises:
            ValueError: There is none; the message lists the existing ones.
        """
        path = CONF / "ensemble" / f"{name}.yaml"
        if not path.is_file():
            existing = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
            raise ValueError(f"recipe={name} does not exist; the recipes are {existing}")
        return cls.read(path)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe from a file.

        Raises:
            ValueError: A key is missing or unknown.
        """
        try:
            return cls(name=path.stem, **to_container(OmegaConf.load(path)))
        except TypeError as error:
            raise ValueError(f"{path}: {str(error).removeprefix('Recipe.__init__() ')}") from None

    def runs(self) -> dict[str, Path]:
        """Return the folder of each member's run."""
        return {member: RUNS / member for member in self.members}

    def missing(self) -> list[str]:
        """Return the members whose training has not finished."""
        return [member for member, run in self.runs().items() if not (run / RECORD).is_file()]

    def trained(self) -> list[Path]:
        """Return the runs of all members.

        Raises:
            FileNotFoundError: Some are not trained; the message contains the commands that train them.
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
