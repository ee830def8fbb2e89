"""A search space in Python, for `custom_search_space`."""

import optuna
from omegaconf import DictConfig


def suggest(config: DictConfig, trial: optuna.Trial) -> None:
    """Suggest an integer y, for adamw only."""
    assert config.steps == 0
    if trial.params["optimizer"] == "adamw":
        trial.suggest_int("y", 1, 3)
