"""A real sshd on this machine, run by whoever runs the tests, and a cable to it that can be cut."""

import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.patience import PATIENCE

PROGRAM = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_BYTES = 1 << 16


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Cable:
    """Passes on what it gets between a port of its own and another one; cut, it keeps every connection and is mute."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._whole = threading.Event()
        self._whole.set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                one, _ = self._server.accept()
                threading.Thread(target=self._join, args=(one,), daemon=True).start()

    def _join(self, one: socket.socket) -> None:
        with suppress(OSError), one, socket.create_connection(("127.0.0.1", self._port)) as other:
            back = threading.Thread(target=self._pass_on, args=(other, one), daemon=True)
            back.start()
            self._pass_on(one, other)
            back.join()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(_BYTES):
                self._whole.wait()
                other.sendall(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_WR)


class Sshd:
    """The server, with a key of its own, and what a client needs to know of it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        for name in ("host", "user"):
            subprocess.run([shutil.which("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", home / name], check=True)
        self._port = free_port()
        self.cable = Cable(self._port)
        (home / "sshd_config").write_text(
            f"Port {self._port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nAuthorizedKeysFile {home}/user.pub\n"
            "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n"
        )
        (home / "known").write_text(f"box {(home / 'host.pub').read_text()}")
        self.config = home / "ssh_config"
        self.config.write_text(
            f"Host box\n HostName 127.0.0.1\n Port {self.cable.port}\n HostKeyAlias box\n User {getpass.getuser()}\n"
            f" IdentityFile {home}/user\n IdentitiesOnly yes\n UserKnownHostsFile {home}/known\n"
            " StrictHostKeyChecking yes\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd demands it of root, and of nobody else
        with (home / "sshd.log").open("wb") as log:
            self._process = subprocess.Popen([PROGRAM, "-D", "-e", "-f", home / "sshd_config"], stderr=log)
        self._await()

    @property
    def command(self) -> str:
        """The client as LORAFIT_SSH names it."""
        return f"ssh -F {self.config}"

    def kill_sessions(self) -> None:
        """Kill what serves the connections, as when the machine's network is taken away; its workers live on."""
        for one in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if one.name().startswith("sshd"):
                    one.kill()

    def close(self) -> None:
        self.cable.close()
        self._process.terminate()
        self._process.wait()

    def _await(self) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            assert self._process.poll() is None, (self._home / "sshd.log").read_text()
            time.sleep(0.05)
        raise AssertionError("sshd does not answer")
