"""`python -m fer_lightning app`: starts the browser app."""

from __future__ import annotations

import argparse
import importlib.util
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from fer_lightning.app.choices import MODEL_VARIABLE, choices_from

UPLOAD_MB = 50
LOCAL = ("localhost", "127.0.0.1", "::1")


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(
        prog="fer app",
        usage="python -m fer_lightning app [options]",
        description="Starts the browser app: upload images or use the camera, see the predictions for each face, "
        "compare models, and browse the results of runs. It lists the bundled model, the exports and runs in outputs/, "
        "and the runs in MLflow's store (mlruns/, or MLFLOW_TRACKING_URI).",
    )
    parser.add_argument(
        "--model", help="name of a bundled model, or path of a bundle, a checkpoint or a folder that contains them"
    )
    parser.add_argument("--port", type=int, help="port (default: 8501, or a free one if it is in use)")
    parser.add_argument(
        "--address",
        default="localhost",
        help="address to listen on; 0.0.0.0 allows other machines to connect, without a password; their "
        "browsers allow the camera only over https (default: localhost)",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand until the app is stopped and return its exit status."""
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    if importlib.util.find_spec("streamlit") is None:
        raise ValueError("the app needs Streamlit: pip install -e '.[app]', or pip install streamlit")
    if options.model:
        choices_from(options.model)
        os.environ[MODEL_VARIABLE] = options.model
    port = free_port(options.address, options.port)
    access = (
        "only this machine can open it"
        if options.address in LOCAL
        else "ANYBODY who can reach this machine can open it"
    )
    print(
        f"http://{'localhost' if options.address in LOCAL else socket.gethostname()}:{port} ({access}; Ctrl-C stops it)"
    )
    return serve(options.address, port)


def free_port(address: str, requested: int | None) -> int:
    """Return the requested port, or by default 8501 or any free port.

    Raises:
        ValueError: The requested port is in use, or the address does not exist.
    """
    for port in [requested] if requested else [8501, 0]:
        try:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.create_server((address, port), family=family) as probe:
                return int(probe.getsockname()[1])
        except (OSError, OverflowError) as error:
            problem = error
    raise ValueError(f"{address}:{requested or 8501} cannot be used ({problem}); choose another with --port") from None


def serve(address: str, port: int) -> int:
    """Run Streamlit until it is stopped."""
    from starlette.formparsers import MultiPartParser
    from streamlit.web import cli

    MultiPartParser.spool_max_size = (UPLOAD_MB + 1) * 2**20  # otherwise larger uploads than 1 MB are written to disk
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
        "theme.light.primaryColor": "#0072B2",  # the browser chooses light or dark
        "theme.dark.primaryColor": "#56B4E9",
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    cli.main(["run", str(Path(__file__).with_name("script.py")), *flags], standalone_mode=False)
    return 0
