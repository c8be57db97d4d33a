"""Which process works on a run: known by number and start, so that a number given out again is no mistake."""

import os
import sys
from pathlib import Path

import psutil

GRACE_SECONDS = 10.0
"""How long a worker whose run is over may take to exit: freeing a card's memory takes seconds."""


def identity(pid: int) -> str | None:
    """Return a text that names a process until the machine is started again, or None if there is none."""
    try:
        return f"{pid} {_start(pid)}"
    except (OSError, psutil.Error):
        return None


def lives(process: str) -> bool:
    """Return whether a process is still there; one that has ended but was not waited for is not."""
    pid = int(process.split()[0])
    try:
        return identity(pid) == process and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end(process: str) -> None:
    """Wait until a worker's process is gone, and end it with all that it started if it stays."""
    pid = int(process.split()[0])
    if pid == os.getpid() or not lives(process):
        return
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    _, staying = psutil.wait_procs(family, timeout=GRACE_SECONDS)
    for one in staying:
        one.kill()
    psutil.wait_procs(staying, timeout=GRACE_SECONDS)


def _start(pid: int) -> str:
    """Return when a process began, in a form that a change of the clock does not change."""
    if sys.platform != "linux":
        return str(psutil.Process(pid).create_time())
    # psutil adds the time of boot, which moves with the clock. Field 22, starttime, proc(5); names may hold spaces.
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
