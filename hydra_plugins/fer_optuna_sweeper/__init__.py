"""Optuna sweeps for any Hydra app: `python app.py -m hydra/sweeper=fer_optuna 'lr=interval(0.1,1)'`.

A job reports values, is pruned and stores attributes through its trial:

    from hydra_plugins.fer_optuna_sweeper import current_trial

    if (trial := current_trial()) is not None:  # None outside a sweep
        trial.report(accuracy, step=epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
"""

from hydra_plugins.fer_optuna_sweeper._job import current_trial

__all__ = ["current_trial"]
