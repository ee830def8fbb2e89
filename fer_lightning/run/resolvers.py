"""The OmegaConf resolvers that `conf/` uses."""

from __future__ import annotations

import os

from omegaconf import DictConfig, OmegaConf

from fer_lightning.data.sources.locate import find_fer2013
from fer_lightning.run.resume import run_folder


def register_resolvers() -> None:
    """Register the resolvers that `conf/` uses; safe to call twice."""
    OmegaConf.register_new_resolver("default_data", _default_data, replace=True)
    OmegaConf.register_new_resolver("chosen", lambda *names: next(n for n in names if n), replace=True)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)


def _default_data() -> str:
    """Return the option that `data=auto` selects: `fer2013` if the data folder contains it, else `synthetic`."""
    return "fer2013" if find_fer2013(os.environ.get("FER_DATA_DIR", "data")) else "synthetic"


def _run_folder(fresh: str, *, _root_: DictConfig) -> str:
    """Return Hydra's output folder: the new one, or that of the run that `resume` continues."""
    return run_folder(fresh, _root_)
