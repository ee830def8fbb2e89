"""Trains one net as `conf/` and the command line say; `python train.py --help` lists the choices."""

import sys

import hydra
from omegaconf import DictConfig

from fer_lightning.config import overrides_last, register_resolvers

register_resolvers()


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> float:
    """Returns the objective, for sweeps."""
    from fer_lightning.run import train  # imports torch, which --help and --cfg do not need

    return train(config)


if __name__ == "__main__":
    sys.argv[1:] = overrides_last(sys.argv[1:])
    main()
