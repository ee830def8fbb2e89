"""The plugin class, which Hydra imports at every start: heavy imports wait until a sweep runs."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.fer_optuna_sweeper._job import TrialTask


class FerOptunaSweeper(Sweeper):
    """Runs Hydra jobs as Optuna trials: pruned, resumed and shared by any number of workers.

    Args:
        **options: The config node `hydra.sweeper`, see `SweeperConf`.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the context and create the launcher, with a task that runs each job as a trial; called by Hydra."""
        self.hydra_context = hydra_context
        self.config = config
        self.task = TrialTask(task_function)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=self.task, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the study until it has `n_trials` trials.

        Args:
            arguments: The command-line overrides without Hydra's own, sweeps included.

        Raises:
            SystemExit: The sweep cannot start or had to stop; the message is one line.
        """
        from hydra_plugins.fer_optuna_sweeper._sweep import Sweep, SweepError

        try:
            Sweep(self, arguments).run()
        except SweepError as error:
            raise SystemExit("fer_optuna: " + " ".join(str(error).split())) from None
