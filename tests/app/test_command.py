"""`python -m fer_lightning app`."""

import socket
from pathlib import Path

import pytest
from helpers.processes import free_port

from fer_lightning import __main__ as entry
from fer_lightning.app import command


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The addresses and ports that the command would serve."""
    pytest.importorskip("streamlit", reason="the app needs Streamlit: pip install -e '.[app]'")
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(command, "serve", lambda *call: calls.append(call) or 0)
    return calls


def test_the_command_prints_the_url_and_who_can_open_it(served, capsys) -> None:
    port = free_port()
    assert entry.main(["app", "--port", str(port)]) == 0
    assert served == [("localhost", port)]
    assert f"http://localhost:{port} (only this machine can open it" in capsys.readouterr().out
    assert entry.main(["app", "--address", "0.0.0.0"]) == 0
    assert "ANYBODY" in capsys.readouterr().out
    assert [address for address, _ in served] == ["localhost", "0.0.0.0"]


def test_usage_errors_are_one_sentence(served, capsys, monkeypatch, tmp_path: Path) -> None:
    def error_of(*arguments: str) -> str:
        assert entry.main(["app", *arguments]) == 2
        [sentence] = capsys.readouterr().err.strip().splitlines()[-1:]
        return sentence

    assert "nowhere" in error_of("--model", "nowhere")
    assert "neither a bundle" in error_of("--model", str(tmp_path))
    with socket.create_server(("localhost", 0)) as taken:
        assert "choose another with --port" in error_of("--port", str(taken.getsockname()[1]))
    assert "--port" in error_of("--port", "many")
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert "pip install -e '.[app]'" in error_of()
    assert served == []
