"""Optuna sweeps for any Hydra app: `python app.py -m hydra/sweeper=fer_optuna 'lr=interval(0.1,1)'`.

A job that wants to report, be pruned or note something asks for its trial:

    from hydra_plugins.fer_optuna_sweeper import current_trial

    if (trial := current_trial()) is not None:  # None outside a sweep
        trial.report(accuracy, step=epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
"""

from hydra_plugins.fer_optuna_sweeper._job import current_trial

__all__ = ["current_trial"]
