"""A search space in Python, as `custom_search_space` names it."""

import optuna
from omegaconf import DictConfig


def suggest(config: DictConfig, trial: optuna.Trial) -> None:
    """An integer y, for adamw only."""
    assert config.steps == 0
    if trial.params["optimizer"] == "adamw":
        trial.suggest_int("y", 1, 3)
