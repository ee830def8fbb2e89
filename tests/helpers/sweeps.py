"""Types of the fixtures that run the toy app."""

import subprocess
from collections.abc import Callable

import optuna

Start = Callable[..., "subprocess.Popen[str]"]
Sweep = Callable[..., "subprocess.CompletedProcess[str]"]
OpenStudy = Callable[..., optuna.Study]
