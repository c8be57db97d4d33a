"""The server takes the next free port when one is busy, and says so."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from scripts import serve
from tests.patience import PATIENCE


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_the_first_free_port_is_taken(busy_port: int) -> None:
    port = serve.free_port(busy_port)
    assert port is not None
    assert busy_port < port < busy_port + serve.TRIES


def test_a_busy_port_is_named_with_the_one_taken_instead(busy_port: int) -> None:
    command = [sys.executable, "-m", "scripts.serve", "--port", str(busy_port), "--server.headless=true"]
    with subprocess.Popen(command, cwd=serve.REPO, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        assert server.stdout is not None
        said = [server.stdout.readline(), server.stdout.readline()]
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=PATIENCE)
    assert f"Port {busy_port} is busy; using" in said[0]
    assert "http://localhost:" in said[1]


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_an_impossible_port_is_refused_in_one_sentence(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["serve", "--port", port])
    assert serve.main() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
