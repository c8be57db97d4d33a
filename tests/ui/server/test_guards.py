"""A real server that other machines reach, asked as a stranger would: by other names, from other sites, without token.

A hook in its process writes down every address that it or a process of its own looks up or connects to.
"""

import ipaddress
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

from specs.paths import REPO

HOOK = """
import json, sys
def heard(event, arguments):
    if event in {"socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}:
        address = arguments[1] if event in {"socket.connect", "socket.sendto"} else arguments[0]
        with open(%r, "a") as log:
            log.write(json.dumps([event, address if isinstance(address, (list, tuple)) else [str(address)]]) + "\\n")
sys.addaudithook(heard)
"""
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


class Shared:
    """The app on all addresses of this machine."""

    def __init__(self, folder: Path) -> None:
        self.heard = folder / "addresses"
        (folder / "sitecustomize.py").write_text(HOOK % str(self.heard))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = [f"--server.port={self.port}", "--server.address=0.0.0.0", "--server.headless=true"]
        environment = {**os.environ, "LORAFIT_RUNS": str(folder / "runs"), "PYTHONPATH": str(folder)}
        environment.pop("LORAFIT_TOKEN", None)
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streamlit", "run", "app.py", *options],
                cwd=REPO,
                env=environment,
                stdout=output,
                stderr=output,
            )
        self.token = self._token()
        self.cookie = self.ask(f"/?token={self.token}")[1]["set-cookie"].partition(";")[0]

    def _token(self) -> str:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(r"\?token=(\w+)", self.output.read_text()):
                return found[1]
            time.sleep(0.1)
        raise TimeoutError(self.output.read_text())

    def ask(self, path: str, method: str = "GET", form: str = "", **headers: str) -> tuple[int, dict[str, str], str]:
        """Send these very headers; return the status, the headers and the text of the answer."""
        sent = {"Host": f"localhost:{self.port}", "Connection": "close"}
        sent |= {"Content-Length": str(len(form)), "Content-Type": "application/x-www-form-urlencoded"} if form else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", form]
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as line:
            line.sendall("\r\n".join(lines).encode())
            answer = b""
            while b"101 Switching" not in answer and (part := line.recv(65_536)):
                answer += part
        head, _, text = answer.decode(errors="replace").partition("\r\n\r\n")
        status, *received = head.split("\r\n")
        pairs = (entry.partition(": ") for entry in received)
        return int(status.split()[1]), {name.lower(): value for name, _, value in pairs}, text


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    server = Shared(tmp_path_factory.mktemp("shared"))
    yield server
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()


STRANGERS = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "a@localhost", "localhost:x", ""]


@pytest.mark.parametrize("host", STRANGERS)
def test_a_page_asked_for_by_another_name_is_refused_in_a_sentence(shared, host):
    status, _, text = shared.ask("/", Host=host, Cookie=shared.cookie)
    assert status == 403
    assert text.startswith("Host: must be one of localhost, 127.0.0.1, ::1")
    assert len(text) <= 301


@pytest.mark.parametrize("host", STRANGERS)
def test_a_websocket_by_another_name_is_refused(shared, host):
    asked = {"Host": host, "Origin": f"http://{host}", "Cookie": shared.cookie, **UPGRADE}
    assert shared.ask("/_stcore/stream", **asked)[0] == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
def test_a_page_of_another_site_is_refused(shared, origin):
    for more in ({}, UPGRADE):
        path = "/_stcore/stream" if more else "/"
        assert shared.ask(path, Origin=origin, Cookie=shared.cookie, **more)[0] == 403


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", socket.gethostname()])
def test_every_name_of_this_machine_opens_page_and_websocket(shared, name):
    host = f"{name}:{shared.port}"
    status, headers, text = shared.ask("/", Host=host, Cookie=shared.cookie)
    assert (status, "<title>" in text) == (200, True)
    assert headers["content-security-policy"] == "frame-ancestors 'self'"
    assert shared.ask("/_stcore/stream", Host=host, Origin=f"http://{host}", Cookie=shared.cookie, **UPGRADE)[0] == 101


def test_nothing_but_its_health_is_told_without_the_token(shared):
    for path in ("/", "/runs?run=x", "/static/index.html", "/media/x", "/_stcore/host-config"):
        status, headers, text = shared.ask(path)
        assert (status, text) == (401, "token: must be the one in the link that LoRAFit printed when it started.\n")
        assert headers["cache-control"] == "no-store"
    assert shared.ask("/_stcore/stream", **UPGRADE)[0] == 403
    assert shared.ask("/_stcore/health")[0] == 200


@pytest.mark.parametrize("wrong", ["", "x", "é", "A" * 10_000])
def test_a_wrong_token_opens_nothing(shared, wrong):
    name = shared.cookie.partition("=")[0]
    assert shared.ask("/?" + urlencode({"token": wrong}))[0] == 401
    assert shared.ask("/", "POST", urlencode({"token": wrong}))[0] == 401
    assert shared.ask("/", Cookie=f"{name}={wrong.encode('ascii', 'ignore').decode()}")[0] == 401


def test_the_link_leads_to_its_page_without_the_token_and_a_reload_keeps_working(shared):
    status, headers, _ = shared.ask(f"/runs?run=a+b&token={shared.token}&x=")
    assert (status, headers["location"]) == (303, "/runs?run=a+b&x=")
    assert {"HttpOnly", "SameSite=lax"} <= set(headers["set-cookie"].split("; "))
    assert shared.token not in headers["set-cookie"]
    assert [shared.ask("/runs", Cookie=shared.cookie)[0] for _ in range(2)] == [200, 200]


def test_the_form_takes_the_token_too(shared):
    status, headers, _ = shared.ask("/?model=x", "POST", urlencode({"token": shared.token}))
    assert (status, headers["location"]) == (303, "/?model=x")
    assert headers["set-cookie"].startswith(shared.cookie)


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example/"])
def test_the_link_never_leads_to_another_host(shared, path):
    assert shared.ask(f"{path}?token={shared.token}")[1]["location"] == "/evil.example/"


def test_a_page_is_drawn_without_asking_anybody_outside_and_the_token_is_printed_once(shared):
    address = f"ws://127.0.0.1:{shared.port}/_stcore/stream"
    for page in ("", "runs", "compare"):
        asked = BackMsg()
        asked.rerun_script.page_name = page
        with connect(address, subprotocols=["streamlit"], additional_headers={"Cookie": shared.cookie}) as line:
            line.send(asked.SerializeToString())
            texts = []
            while "script_finished" not in texts:
                message = ForwardMsg.FromString(line.recv(timeout=120))
                texts.append(message.WhichOneof("type"))
        assert "delta" in texts
    lines = shared.heard.read_text().splitlines() if shared.heard.exists() else []
    outside = [entry for entry in map(json.loads, lines) if not is_here(entry[1][0])]
    assert not outside
    assert shared.output.read_text().count(shared.token) == 1


def is_here(address: str) -> bool:
    """Return whether an address is this machine's: loopback, none at all, or a file."""
    try:
        return ipaddress.ip_address(address).is_loopback or ipaddress.ip_address(address).is_unspecified
    except ValueError:
        return address in {"None", "localhost"} or address.startswith(("/", "\0"))
