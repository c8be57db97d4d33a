"""Commands on another machine through the OpenSSH client, as its person has it set up."""

import hashlib
import os
import queue
import re
import shlex
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from specs import RunError, paths
from trainer.away.executor import SILENCE_SECONDS, FullError, UnreachableError
from trainer.runs.places import Where

_OPTIONS = (
    "BatchMode=yes",  # nobody is there to be asked
    "ConnectTimeout=10",
    # What was cut without a word is noticed after so long: ssh_config(5).
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
)
_FAILED = 255
"""The exit status with which ssh says that it failed itself: ssh(1)."""
_LONGEST_SOCKET = 104 - 18
"""Bytes of the path of a socket, on the systems with the shortest, less what ssh adds while it makes one."""
_REASONS = (
    ("revoked host key", "has a host key that was revoked", "Ask whoever runs it for its key"),
    ("host key verification failed", "has a host key that is not known", "Run ssh to it once in a terminal"),
    ("unprotected private key", "is offered no key, as others may read it", "Run chmod 600 on the file of the key"),
    (
        "permission denied",
        "lets nobody in with the keys that ssh offers",
        "Set up a key, in ssh-agent if it has a passphrase",
    ),
    ("could not resolve", "is the name of no machine that can be found", "Check the name and ~/.ssh/config"),
)
_FULL = ("no space left", "full disk", "disk is full")
"""What the system, LoRAFit's store and SQLite say of a disk without space."""
_CHANGED = re.compile(r"host key for (\S+) has changed", re.IGNORECASE)
_OFFENDING = re.compile(r"offending .* key in (.+):\d+", re.IGNORECASE)
"""What ssh says of a machine whose key is not the one that it knows: under which name, and in which file."""


class Connection:
    """A way to run commands on one machine."""

    def __init__(self, place: Where) -> None:
        self._place = place
        self._program = shlex.split(paths.ssh())
        self._shared = _shared_options(f"{self._program}{place.host}:{place.port}")

    def run(self, script: str, *arguments: str, give: Callable[[IO[bytes]], None] | None = None) -> str:
        """Run a script of the shell there and return what it prints.

        Args:
            script: For ``sh``, with its arguments as ``$1`` and so on.
            arguments: Any text.
            give: Writes what the script reads.

        Raises:
            UnreachableError: If the machine cannot be reached.
            ScriptError: If the script failed.
        """
        with self._running(script, arguments, reads=give is not None) as process:
            _give(process, give)
            out, err = process.communicate()
        self._require_success(process.returncode, err)
        return out.decode("utf-8", errors="replace")

    def take(self, script: str, *arguments: str, take: Callable[[IO[bytes]], None]) -> None:
        """Run a script there, whose output is read by a function.

        Raises:
            UnreachableError: If the machine cannot be reached.
            ScriptError: If the script failed.
        """
        with tempfile.TemporaryFile() as errors, self._running(script, arguments, errors=errors) as process:
            failure: Exception | None = None
            output = _output(process)
            try:
                take(output)
            except (OSError, ValueError, EOFError) as error:  # an archive that ends early is no archive
                failure = error
                process.kill()
            except BaseException:
                process.kill()
                raise
            output.close()
            status = process.wait()
            errors.seek(0)
            if failure is not None and isinstance(failure, OSError) and failure.errno is not None:
                raise failure
            self._require_success(status if failure is None else status or _FAILED, errors.read())

    def lines(self, script: str, *arguments: str) -> Iterator[str]:
        """Yield the lines that a script prints there, as they come.

        Raises:
            UnreachableError: If the machine cannot be reached any more, or is silent for ``SILENCE_SECONDS``.
            ScriptError: If the script failed.
        """
        with tempfile.TemporaryFile() as errors, self._running(script, arguments, errors=errors) as process:
            heard: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            threading.Thread(target=_listen, args=(process, heard), daemon=True).start()
            try:
                while (line := heard.get(timeout=SILENCE_SECONDS)) is not None:
                    yield line.decode("utf-8", errors="replace")
            except queue.Empty:
                raise UnreachableError(self._place.short, "is silent") from None
            finally:
                if process.poll() is None and not _ends(process):
                    process.kill()
                process.wait()
            errors.seek(0)
            self._require_success(process.returncode, errors.read())

    def drop(self) -> None:
        """Give up the connection that commands share: a dead one would keep the next ones waiting."""
        if self._shared:
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run(
                    [*self._command(), "-O", "exit", *self._target()], capture_output=True, check=False, timeout=5
                )

    @contextmanager
    def _running(
        self, script: str, arguments: Sequence[str], *, reads: bool = False, errors: IO[bytes] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        # ssh joins its arguments with spaces and the shell there takes them apart again.
        remote = shlex.join(["sh", "-c", script, "lorafit", *arguments])
        try:
            process = subprocess.Popen(
                [*self._command(), *self._target(), remote],
                stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if errors is None else errors,
            )
        except OSError as error:
            raise RunError(self._program[0], "could not be started", error.strerror, "Install OpenSSH") from error
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()

    def _command(self) -> list[str]:
        return [*self._program, "-T", *(part for one in (*_OPTIONS, *self._shared) for part in ("-o", one))]

    def _target(self) -> list[str]:
        port = ["-p", str(self._place.port)] if self._place.port is not None else []
        user, at, host = self._place.host.rpartition("@")
        return [*port, "--", f"{user}{at}{host.strip('[]')}"]  # ssh takes no brackets around an address of IPv6

    def _require_success(self, status: int, errors: bytes) -> None:
        if status == 0:
            return
        said = [line.strip() for line in errors.decode("utf-8", errors="replace").splitlines() if line.strip()]
        last = said[-1] if said else ""
        if status in {_FAILED, -9}:
            self.drop()
            raise _unreachable(self._place.short, said)
        if any(sign in " ".join(said).lower() for sign in _FULL):
            raise FullError(self._place.short)
        raise ScriptError(status, self._place.short, "could not do what was asked", last or f"status {status}")


class ScriptError(RunError):
    """A script that failed on the other machine, with its exit status."""

    def __init__(self, status: int, subject: str, rule: str, got: object = None, way_out: str = "") -> None:
        super().__init__(subject, rule, got, way_out)
        self.status = status


def _unreachable(place: str, said: Sequence[str]) -> UnreachableError:
    """Return in one sentence why ssh failed, of what it said itself."""
    text = "\n".join(said)
    if changed := _CHANGED.search(text):
        found = _OFFENDING.search(text)
        file = found[1] if found else ""
        named = ["-f", file] if file and Path(file) != Path.home() / ".ssh" / "known_hosts" else []
        forget = shlex.join(["ssh-keygen", *named, "-R", changed[1]])
        rule = "has another host key than it had, as if another machine answered in its place"
        return UnreachableError(place, rule, None, f"If it was set up anew, run {forget}, then ssh to it once")
    rule, way_out = next(
        ((rule, way_out) for sign, rule, way_out in _REASONS if sign in text.lower()),
        ("cannot be reached", "Check that it runs, and try ssh in a terminal"),
    )
    return UnreachableError(place, rule, said[-1] if said else None, way_out)


def _give(process: subprocess.Popen[bytes], give: Callable[[IO[bytes]], None] | None) -> None:
    """Let a function write what a process reads; if that one ends early, its exit status says why."""
    if give is None or process.stdin is None:
        return
    with suppress(BrokenPipeError, ConnectionResetError):
        give(process.stdin)
    with suppress(OSError):
        process.stdin.close()
    process.stdin = None


def _listen(process: subprocess.Popen[bytes], heard: "queue.SimpleQueue[bytes | None]") -> None:
    with suppress(ValueError, OSError):  # closed, as nobody listens any more
        for line in _output(process):
            heard.put(line)
    heard.put(None)


def _output(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdout is None:
        raise ValueError("the process has no pipe")
    return process.stdout


def _ends(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process whose output ended exits by itself."""
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        return False
    return True


def _shared_options(target: str) -> tuple[str, ...]:
    """Return ssh's options to share one connection between commands; none where its socket can have no safe place."""
    if os.name != "posix":
        return ()
    folder = Path(tempfile.gettempdir()) / f"lorafit-ssh-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    # A name of our own, as two settings of ssh may mean different machines by the same name.
    socket = folder / hashlib.sha256(target.encode()).hexdigest()[:16]
    if not ours or len(os.fsencode(socket)) > _LONGEST_SOCKET:
        return ()
    return "ControlMaster=auto", f"ControlPath={socket}", "ControlPersist=60"
