"""`python -m fer_lightning app`: the models of this machine in a browser."""

from __future__ import annotations

import argparse
import importlib.util
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from fer_lightning.app.choices import MODEL_VARIABLE, given

UPLOAD_MB = 50
LOCAL = ("localhost", "127.0.0.1", "::1")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="fer app",
        description="Opens the app: upload pictures or take one with the camera, see what the models say of the faces, "
        "compare models, look at the results of the runs. Models are the bundled one, the exports and runs in outputs/ "
        "and the runs in MLflow's store (mlruns/, or MLFLOW_TRACKING_URI).",
    )
    parser.add_argument("--model", help="a bundled model's name, a bundle, a checkpoint, or a folder with some in it")
    parser.add_argument("--port", type=int, help="8501, or a free one where that is taken")
    parser.add_argument(
        "--address",
        default="localhost",
        help="0.0.0.0 lets other machines in, without any password; "
        "browsers give them the camera over https only (default: localhost)",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status when the app is stopped."""
    try:
        options = parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    if importlib.util.find_spec("streamlit") is None:
        raise ValueError("the app needs Streamlit: pip install -e '.[app]', or pip install streamlit")
    if options.model:
        given(options.model)
        os.environ[MODEL_VARIABLE] = options.model
    port = free_port(options.address, options.port)
    who = (
        "only this machine can open it" if options.address in LOCAL else "ANYBODY who reaches this machine can open it"
    )
    print(f"http://{'localhost' if options.address in LOCAL else socket.gethostname()}:{port} ({who}; Ctrl-C stops it)")
    return serve(options.address, port)


def free_port(address: str, wanted: int | None) -> int:
    """The wanted port; without a wish 8501, or any free one.

    Raises:
        ValueError: The wanted port is taken, or there is no such address.
    """
    for port in [wanted] if wanted else [8501, 0]:
        try:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.create_server((address, port), family=family) as probe:
                return int(probe.getsockname()[1])
        except (OSError, OverflowError) as error:
            problem = error
    raise ValueError(f"{address}:{wanted or 8501} cannot be used ({problem}); choose another with --port") from None


def serve(address: str, port: int) -> int:
    """Runs Streamlit until it is stopped."""
    from starlette.formparsers import MultiPartParser
    from streamlit.web import cli

    MultiPartParser.spool_max_size = (UPLOAD_MB + 1) * 2**20  # else uploads above 1 MB pass through a file on disk
    settings = {
        "server.address": address,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.maxUploadSize": UPLOAD_MB,
        "browser.gatherUsageStats": "false",
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
        "logger.hideWelcomeMessage": "true",
        "theme.light.primaryColor": "#0072B2",  # light or dark as the browser asks for
        "theme.dark.primaryColor": "#56B4E9",
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    cli.main(["run", str(Path(__file__).with_name("script.py")), *flags], standalone_mode=False)
    return 0
