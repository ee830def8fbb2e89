"""Options of `hydra/sweeper=fer_optuna` for Hydra's ConfigStore. Hydra imports this at every start: no Optuna here."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class SweeperConf:
    """`hydra.sweeper.*`; shared options have the same names as in Hydra's own Optuna plugin."""

    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}, {"pruner": "none"}])
    _target_: str = "hydra_plugins.fer_optuna_sweeper.sweeper.FerOptunaSweeper"
    _recursive_: bool = False  # sampler, pruner and observers are instantiated when the sweep starts
    _convert_: str = "all"
    sampler: Any = MISSING
    pruner: Any = MISSING
    direction: Any = "minimize"  # or a list with one direction per objective: [maximize, minimize]
    n_trials: int = 20  # in total, over all workers and resumes
    n_jobs: int = 1  # trials per launch; a parallel launcher runs them at the same time
    max_failures: int | None = 5  # the sweep stops when more trials have failed; null for no limit
    study_name: str | None = None  # null: the job's name and a hash of search space and config
    without_effect: list[str] = field(default_factory=list)  # keys and groups excluded from that hash
    storage: str | None = None  # sqlite:/// or postgresql+psycopg://; null: outputs/sweeps/<study_name>.db
    params: dict[str, Any] | None = None  # the search space, in Hydra's sweep syntax
    custom_search_space: str | None = None  # dotted name of a function(config, trial) that suggests more parameters
    observers: list[Any] = field(default_factory=list)  # _target_s with on_study_start, on_trial_end, on_study_end
    heartbeat_interval: int = 15  # seconds between the heartbeats of a running trial
    grace_period: int = 60  # seconds without a heartbeat after which a running trial is failed and retried


@dataclass
class RandomConf:
    """Independent uniform sampling: the baseline."""

    _target_: str = "optuna.samplers.RandomSampler"
    seed: int | None = None


@dataclass
class TPEConf:
    """Tree-structured Parzen estimator (Bergstra et al., 2011): the default for any space."""

    _target_: str = "optuna.samplers.TPESampler"
    seed: int | None = None
    n_startup_trials: int = 10
    n_ei_candidates: int = 24
    constant_liar: bool = True  # treats running trials as bad, so that workers do not sample close to each other


@dataclass
class GPConf:
    """Gaussian process with expected improvement: for few, expensive trials and numeric spaces."""

    _target_: str = "optuna.samplers.GPSampler"
    seed: int | None = None
    n_startup_trials: int = 10


@dataclass
class CMAESConf:
    """CMA-ES (Hansen, 2001): for hundreds of trials and continuous spaces. Needs `pip install cmaes`."""

    _target_: str = "optuna.samplers.CmaEsSampler"
    seed: int | None = None
    sigma0: float | None = None
    n_startup_trials: int = 1


@dataclass
class NSGAIIConf:
    """NSGA-II (Deb et al., 2002): for two or more objectives and many trials."""

    _target_: str = "optuna.samplers.NSGAIISampler"
    seed: int | None = None
    population_size: int = 50
    mutation_prob: float | None = None
    crossover_prob: float = 0.9
    swapping_prob: float = 0.5


@dataclass
class GridConf:
    """Every combination of choices and ranges once, conditions respected; a smaller n_trials stops it earlier."""

    _target_: str = "optuna.samplers.GridSampler"
    seed: int | None = None  # shuffles the order


@dataclass
class NoPrunerConf:
    """No pruning: every trial runs to completion."""

    _target_: str = "optuna.pruners.NopPruner"


@dataclass
class MedianPrunerConf:
    """Prunes a trial whose best reported value is worse than the median of the other trials at that step."""

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
    """Hyperband (Li et al., 2018): successive halving at several rates in parallel."""

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
