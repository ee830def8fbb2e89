"""A minimal Hydra app without Lightning: minimize (x - 1)^2 + y^2."""

import math
import os
import signal
import sys
import time
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from hydra_plugins.fer_optuna_sweeper import current_trial


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> Any:
    """Compute the objective, then end as `outcome` requires."""
    loss = (cfg.x - 1) ** 2 + cfg.y**2
    trial = current_trial()
    assert trial is not None or "optuna" not in sys.modules, "Optuna must not be imported outside a sweep"
    for step in range(cfg.steps):
        time.sleep(cfg.sleep)
        if trial is not None:
            trial.report(loss, step)
            if trial.should_prune():
                cfg.outcome = "prune"
                break
    if cfg.outcome == "kill" and trial is not None and "attempt" not in trial.user_attrs:
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.log:
        with open(cfg.log, "a") as file:
            file.write(f"{HydraConfig.get().job.num}\n")
    match cfg.outcome:
        case "raise":
            raise ValueError("simulated error")
        case "not_a_number":
            return math.nan
        case "none":
            return None
        case "memory":
            raise MemoryError("out of memory")
        case "prune":
            import optuna

            raise optuna.TrialPruned
        case "exit":
            sys.exit("simulated exit")
        case "requeue":  # the exit status after SIGTERM
            sys.exit(75)
        case "two":
            return loss, abs(cfg.x)
    print(f"loss {loss!r}")
    return loss


if __name__ == "__main__":
    main()
