"""The OmegaConf resolvers that `conf/` uses."""

from __future__ import annotations

import os

from omegaconf import DictConfig, OmegaConf

from fer_lightning.data.sources.locate import find_fer2013
from fer_lightning.run.resume import run_folder


def register_resolvers() -> None:
    """Registers the interpolations that `conf/` uses; safe to call twice."""
    OmegaConf.register_new_resolver("default_data", _default_data, replace=True)
    OmegaConf.register_new_resolver("chosen", lambda *names: next(n for n in names if n), replace=True)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)


def _default_data() -> str:
    """The `data` option that `data=auto` stands for: `fer2013` if it lies in the data folder, else `synthetic`."""
    return "fer2013" if find_fer2013(os.environ.get("FER_DATA_DIR", "data")) else "synthetic"


def _run_folder(fresh: str, *, _root_: DictConfig) -> str:
    """Where Hydra puts the run: the new folder, or that of the run which `resume` goes on with."""
    return run_folder(fresh, _root_)
