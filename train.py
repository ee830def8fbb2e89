"""Trains one model as configured by `conf/` and the command line; `python train.py --help` lists the options."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from fer_lightning.cli.command_line import check_command_line, overrides_last
from fer_lightning.cli.help import help_text, wrap_text
from fer_lightning.config import CONF
from fer_lightning.run.resolvers import register_resolvers

register_resolvers()


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> float | tuple[float, float]:
    """Train, and return the objective, or two, for sweeps."""
    from fer_lightning.run.train import train  # imports torch, which --help and --cfg do not need

    try:
        return train(config)
    except CompactHydraException as error:  # a single run shows only the sentence
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        sys.exit(str(error))


if __name__ == "__main__":
    if {"--help", "-h"} & set(sys.argv):
        print(wrap_text(help_text(CONF)))
        sys.exit()
    sys.argv[1:] = overrides_last(sys.argv[1:])
    try:
        check_command_line(CONF, sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
    try:
        main()
    except KeyboardInterrupt:  # before there is anything to resume, or in a multirun
        sys.exit(130)
