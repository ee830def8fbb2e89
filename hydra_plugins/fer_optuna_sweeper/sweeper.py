"""The plugin that Hydra finds and imports at every start: everything heavy waits for a sweep."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.fer_optuna_sweeper._job import TrialTask


class FerOptunaSweeper(Sweeper):
    """Hydra's jobs as Optuna's trials: pruned, resumed and shared by any number of workers.

    Args:
        **options: The node `hydra.sweeper`, see `SweeperConf`.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook: keeps the context and makes the launcher, for a task that knows of trials."""
        self.hydra_context = hydra_context
        self.config = config
        self.task = TrialTask(task_function)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=self.task, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the study to its total.

        Args:
            arguments: The overrides of the command line without Hydra's own, sweeps included.

        Raises:
            SystemExit: With one line, where the sweep cannot begin or had to stop.
        """
        from hydra_plugins.fer_optuna_sweeper._sweep import Sweep, SweepError

        try:
            Sweep(self, arguments).run()
        except SweepError as error:
            raise SystemExit("fer_optuna: " + " ".join(str(error).split())) from None
