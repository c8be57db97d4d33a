"""Runs programs that nobody has read in namespaces of the kernel, with limits, and refuses where there are none.

Source:
    bubblewrap's manual, bwrap(1), 0.8; where it is missing, and as root, ``inside`` asks the kernel for the same.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from specs import MIB, RunError
from trainer.sandbox.offered import Offered

_INSIDE = Path(__file__).with_name("inside.py")
SECONDS = 10
MEMORY_BYTES, PROCESSES, FILE_BYTES, FILES = 512 * MIB, 4, 8 * MIB, 32
"""What a program may take: memory of each process, how many of these, bytes of each file and of all that it writes into
its folder, and files open at the same time. HumanEval's own evaluation stops a program after 3 seconds."""
_LIMITS = {
    "RLIMIT_CPU": SECONDS,
    "RLIMIT_AS": MEMORY_BYTES,
    "RLIMIT_NPROC": PROCESSES,
    "RLIMIT_FSIZE": FILE_BYTES,
    "RLIMIT_NOFILE": FILES,
    "RLIMIT_CORE": 0,
    "RLIMIT_MEMLOCK": 0,
    "RLIMIT_MSGQUEUE": 0,
}
_READ_BYTES = 64 * 1024
"""Of what a program prints, the end is looked at."""
_GRACE_SECONDS = 5
_CONFINED = "confined"
"""What is said, over a pipe that no program has, when a program begins; anything else there tells why it did not."""
_SIDES = ("mirrors", "peer", "sides")
"""The modules of an answer's program and of its tests', which no sandbox holds: each after those it imports."""
_BEGINS = """
import sys, types
for name, source in [("trainer", ""), ("trainer.sandbox", ""), *{sources!r}]:
    module = sys.modules[name] = types.ModuleType(name)
    setattr(sys.modules[name.rpartition(".")[0] or name], name.rpartition(".")[2], module)
    exec(compile(source, name, "exec"), module.__dict__)
sys.modules["trainer.sandbox.sides"].{side}(*{given!r})
"""
_SHOWN = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/etc/ld.so.cache", "/nix/store")
"""What a Python needs to start, besides itself; what of it there is."""
_SETTLES = "print('settled', flush=True)"


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended."""

    status: int
    """Its exit status; 128 and more is 256 less the signal that ended it."""
    printed: str
    """The end of what it printed."""
    is_late: bool = False
    """Whether its time was over."""
    is_cut_off: bool = False
    """Whether it was ended, for whatever reason."""


@dataclass(frozen=True, slots=True)
class Tested:
    """How the tests of an answer ended."""

    told: Mapping[str, Any]
    """What their process said at its end: ``passed``, the ``error``, or that the answer was ``gone``; or nothing."""
    answer: Ran
    tests: Ran


def require() -> None:
    """Refuse where programs cannot be confined.

    Raises:
        RunError: If the kernel gives no namespaces here.
    """
    if _way() is None:
        way_out = "Use Linux with bubblewrap installed and user namespaces allowed, or leave it out"
        raise RunError("--run-code", "needs a sandbox, and this system gives none", None, way_out)


def ran(program: str) -> Ran:
    """Run a program to its end, or to the end of its time.

    It sees no network, no files but those of a Python, no variables and no other process; it writes into an empty
    folder that is gone afterwards.

    Raises:
        RunError: If it cannot be confined here.
    """
    require()
    with _started(program, str(_way())) as process:
        process.wait(time.monotonic() + SECONDS)
    return process.ran()


def tested(answer: Sequence[str], tests: Sequence[str], offered: Offered) -> Tested:
    """Run an answer and its tests, each in a sandbox of its own, and return how the tests ended.

    Args:
        answer: What is run as the answer, part by part.
        tests: What is run as its tests, part by part.
        offered: What the tests may take from the answer.

    Raises:
        RunError: If they cannot be confined here.
    """
    require()
    way = str(_way())
    ours, theirs = socket.socketpair()
    result, says = os.pipe()
    has_objects = offered.believed is not None
    one_side = _side("answer", theirs.fileno(), [*answer], has_objects)
    other_side = _side("tests", ours.fileno(), says, [*tests], sorted(offered.names), offered.believed)
    with ours, theirs, os.fdopen(result, "rb") as told:
        with os.fdopen(says, "wb"), _started(one_side, way, theirs.fileno()) as one:
            theirs.close()
            with _started(other_side, way, ours.fileno(), says) as other:
                ours.close()
                other.wait(time.monotonic() + SECONDS)
        os.set_blocking(result, False)
        found = json.loads(told.read() or b"{}")
    return Tested(found, answer=one.ran(), tests=other.ran())


def _side(name: str, *given: Any) -> str:
    """Return the program of the answer, or of the tests."""
    sources = [
        (f"trainer.sandbox.{one}", Path(__file__).with_name(f"{one}.py").read_text(encoding="utf-8")) for one in _SIDES
    ]
    return _BEGINS.format(sources=sources, side=name, given=given)


@cache
def _way() -> str | None:
    """Return the first way to confine a program that works here: that of a program's path, or of ``inside``."""
    if sys.platform != "linux":
        return None
    # As root, bubblewrap leaves the user root, whose number of processes the kernel does not limit.
    installed = shutil.which("bwrap") if os.geteuid() != 0 else None
    return next((way for way in (installed, "") if way is not None and _works(way)), None)


def _works(way: str) -> bool:
    with suppress(OSError, RunError):
        with _started(_SETTLES, way) as process:
            process.wait(time.monotonic() + SECONDS)
        found = process.ran()
        return found.status == 0 and found.printed.strip() == "settled"
    return False


class _Started:
    """A program in its sandbox."""

    def __init__(self, process: "subprocess.Popen[bytes]", printed: IO[bytes], says: IO[bytes]) -> None:
        self._process, self._printed, self._says = process, printed, says
        self._is_late, self._why_not = False, ""
        self._ran: Ran | None = None

    def wait(self, until: float) -> None:
        """Wait for the program's end, or for the end of its time."""
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._is_late = True

    def end(self) -> None:
        """End the program with all that it started, and note how it ended."""
        is_cut_off = self._process.poll() is None
        _end(self._process)
        size = self._printed.seek(0, os.SEEK_END)
        self._printed.seek(max(0, size - _READ_BYTES))
        printed = self._printed.read().decode(errors="replace")
        os.set_blocking(self._says.fileno(), False)
        said = (self._says.read() or b"").decode(errors="replace")
        if said != _CONFINED and (said or not is_cut_off):
            self._why_not = said or printed.strip() or "no word"
        self._ran = Ran(self._process.returncode, printed, self._is_late, is_cut_off)

    def ran(self) -> Ran:
        """Return how the program ended.

        Raises:
            RunError: If it was never confined, and so has not run.
        """
        if self._why_not or self._ran is None:
            raise RunError("--run-code", "lost its sandbox", self._why_not.strip()[-100:], "Leave it out")
        return self._ran


@contextmanager
def _started(program: str, way: str, *shared: int) -> Iterator[_Started]:
    """Start a program in a sandbox, and end it.

    Args:
        program: The program.
        way: How to confine it.
        shared: Files that it is given open.
    """
    reads, says = os.pipe()
    with (
        os.fdopen(reads, "rb") as said,
        tempfile.TemporaryDirectory() as root,
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as printed,
    ):
        with os.fdopen(says, "wb"):
            given.write(program.encode(errors="surrogatepass"))
            given.seek(0)
            process = subprocess.Popen(
                [*_wrapped(way), *_command("" if way else root, way, says)],
                env={},
                cwd="/",
                stdin=given,
                stdout=printed,
                stderr=subprocess.STDOUT,
                pass_fds=(says, *shared),
                start_new_session=True,
            )
        started = _Started(process, printed, said)
        try:
            yield started
        finally:
            started.end()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a program with all that it started."""
    if process.poll() is not None:
        return
    process.terminate()  # the one that watches over the program ends it, and with it its namespace
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _python() -> str:
    """Return the Python itself, without the packages of this environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _command(root: str, way: str, says: int) -> list[str]:
    settings: Mapping[str, Any] = {
        "root": root,
        "shown": [*_shown()],
        "tmp_bytes": FILE_BYTES,
        "limits": _LIMITS,
        "python": _python(),
        "says": says,
        "confined": _CONFINED,
    }
    file = "/inside.py" if way else _INSIDE
    return [_python(), "-I", "-S", "-B", str(file), json.dumps(settings)]


def _shown() -> Iterator[str]:
    """Yield the folders and files that a Python needs to start."""
    there = [path for path in _SHOWN if os.path.lexists(path)]
    own = [os.path.realpath(sys.base_prefix), _python()]
    for path in (*there, *own):
        if not any(Path(path).is_relative_to(other) for other in (*there, own[0]) if other != path):
            yield path


def _wrapped(bwrap: str) -> list[str]:
    """Return the call of bubblewrap, before the command that it confines; nothing without it."""
    if not bwrap:
        return []
    words = [bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    words += ["--clearenv", "--cap-drop", "ALL", "--uid", "65534", "--gid", "65534"]
    for path in map(Path, _shown()):
        words += ["--symlink", str(path.readlink())] if path.is_symlink() else ["--ro-bind", str(path)]
        words.append(str(path))
    words += ["--ro-bind", str(_INSIDE), "/inside.py"]
    words += ["--size", str(FILE_BYTES), "--tmpfs", "/tmp"]  # noqa: S108 - of a file system of its own
    return [*words, "--remount-ro", "/", "--chdir", "/tmp", "--"]  # noqa: S108 - as above
