"""The options of `hydra/sweeper=fer_optuna`, in Hydra's ConfigStore. Imported at every start: no Optuna."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class SweeperConf:
    """`hydra.sweeper.*`; the names are those of Hydra's own Optuna plugin where it has them."""

    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}, {"pruner": "none"}])
    _target_: str = "hydra_plugins.fer_optuna_sweeper.sweeper.FerOptunaSweeper"
    _recursive_: bool = False  # sampler, pruner and observers are built when the sweep begins
    _convert_: str = "all"
    sampler: Any = MISSING
    pruner: Any = MISSING
    direction: Any = "minimize"  # or a list with one direction an objective: [maximize, minimize]
    n_trials: int = 20  # in total, over all workers and resumes
    n_jobs: int = 1  # trials a launch; a launcher that runs in parallel runs so many at once
    max_failures: int | None = 5  # failed trials that the study may have; null for any number
    study_name: str | None = None  # null: the job's name and a hash of space and config
    without_effect: list[str] = field(default_factory=list)  # keys and groups that are no part of that hash
    storage: str | None = None  # sqlite:/// or postgresql+psycopg://; null: outputs/sweeps/<study_name>.db
    params: dict[str, Any] | None = None  # the search space, in Hydra's sweep syntax
    custom_search_space: str | None = None  # dotted name of a function(config, trial) that suggests further
    observers: list[Any] = field(default_factory=list)  # _target_s with on_study_start, on_trial_end, on_study_end
    heartbeat_interval: int = 15  # seconds between the signs of life of a running trial
    grace_period: int = 60  # seconds of silence after which a running trial is given up and tried again


@dataclass
class RandomConf:
    """Independent uniform draws: the baseline."""

    _target_: str = "optuna.samplers.RandomSampler"
    seed: int | None = None


@dataclass
class TPEConf:
    """Tree-structured Parzen estimator (Bergstra et al., 2011): the all-rounder."""

    _target_: str = "optuna.samplers.TPESampler"
    seed: int | None = None
    n_startup_trials: int = 10
    n_ei_candidates: int = 24
    constant_liar: bool = True  # counts running trials as poor ones, so that workers keep apart


@dataclass
class GPConf:
    """Gaussian process with expected improvement: few, expensive trials; numeric spaces."""

    _target_: str = "optuna.samplers.GPSampler"
    seed: int | None = None
    n_startup_trials: int = 10


@dataclass
class CMAESConf:
    """CMA-ES (Hansen, 2001): hundreds of trials, continuous spaces. Needs `pip install cmaes`."""

    _target_: str = "optuna.samplers.CmaEsSampler"
    seed: int | None = None
    sigma0: float | None = None
    n_startup_trials: int = 1


@dataclass
class NSGAIIConf:
    """NSGA-II (Deb et al., 2002): two or more objectives and many trials."""

    _target_: str = "optuna.samplers.NSGAIISampler"
    seed: int | None = None
    population_size: int = 50
    mutation_prob: float | None = None
    crossover_prob: float = 0.9
    swapping_prob: float = 0.5


@dataclass
class GridConf:
    """Every combination once (of choices and ranges, conditions honoured); n_trials may stop it earlier."""

    _target_: str = "optuna.samplers.GridSampler"
    seed: int | None = None  # shuffles the order


@dataclass
class NoPrunerConf:
    """Every trial runs to its end."""

    _target_: str = "optuna.pruners.NopPruner"


@dataclass
class MedianPrunerConf:
    """Prunes a trial whose best report is worse than the median of the others' at that step."""

    _target_: str = "optuna.pruners.MedianPruner"
    n_startup_trials: int = 5
    n_warmup_steps: int = 0
    interval_steps: int = 1
    n_min_trials: int = 1


@dataclass
class SuccessiveHalvingPrunerConf:
    """Asynchronous successive halving (Li et al., 2020)."""

    _target_: str = "optuna.pruners.SuccessiveHalvingPruner"
    min_resource: Any = 1  # steps, or "auto"
    reduction_factor: int = 4
    min_early_stopping_rate: int = 0
    bootstrap_count: int = 0


@dataclass
class HyperbandPrunerConf:
    """Hyperband (Li et al., 2018): successive halving at several rates at once."""

    _target_: str = "optuna.pruners.HyperbandPruner"
    min_resource: int = 1
    max_resource: Any = "auto"  # steps of a full trial, or "auto"
    reduction_factor: int = 3


_OPTIONS: dict[str, dict[str, Any]] = {
    "hydra/sweeper": {"fer_optuna": SweeperConf},
    "hydra/sweeper/sampler": {
        "tpe": TPEConf,
        "random": RandomConf,
        "grid": GridConf,
        "gp": GPConf,
        "cmaes": CMAESConf,
        "nsgaii": NSGAIIConf,
    },
    "hydra/sweeper/pruner": {
        "none": NoPrunerConf,
        "median": MedianPrunerConf,
        "successive_halving": SuccessiveHalvingPrunerConf,
        "hyperband": HyperbandPrunerConf,
    },
}
for _group, _options in _OPTIONS.items():
    for _name, _node in _options.items():
        ConfigStore.instance().store(group=_group, name=_name, node=_node, provider="fer_optuna_sweeper")
