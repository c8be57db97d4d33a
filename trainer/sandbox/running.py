"""Runs programs that nobody has read in namespaces of the kernel, with limits, and refuses where there are none.

Source:
    bubblewrap's manual, bwrap(1), 0.8; where it is missing, and as root, ``inside`` asks the kernel for the same.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from specs import MIB, RunError

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
_FAILED = 125
"""The exit status of what confines a program if it cannot; nothing of the program has run then."""
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
    """Whether it was ended because its time was over."""


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
    found = _ran(program, str(_way()))
    if found.status == _FAILED:
        raise RunError("--run-code", "lost its sandbox", found.printed.strip()[-100:], "Leave it out")
    return found


@cache
def _way() -> str | None:
    """Return the first way to confine a program that works here: that of a program's path, or of ``inside``."""
    if sys.platform != "linux":
        return None
    # As root, bubblewrap leaves the user root, whose number of processes the kernel does not limit.
    installed = shutil.which("bwrap") if os.geteuid() != 0 else None
    return next((way for way in (installed, "") if way is not None and _works(way)), None)


def _works(way: str) -> bool:
    with suppress(OSError):
        found = _ran(_SETTLES, way)
        return found.status == 0 and found.printed.strip() == "settled"
    return False


def _ran(program: str, way: str) -> Ran:
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [*_wrapped(way), *_command("" if way else root, way)],
            env={},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        is_late = False
        try:
            process.communicate(program.encode(errors="surrogatepass"), timeout=SECONDS)
        except subprocess.TimeoutExpired:
            is_late = True
        finally:
            _end(process)
        size = printed.seek(0, os.SEEK_END)
        printed.seek(max(0, size - _READ_BYTES))
        return Ran(process.returncode, printed.read().decode(errors="replace"), is_late)


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


def _command(root: str, way: str) -> list[str]:
    settings: Mapping[str, Any] = {
        "root": root,
        "shown": [*_shown()],
        "tmp_bytes": FILE_BYTES,
        "limits": _LIMITS,
        "python": _python(),
        "failed": _FAILED,
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
