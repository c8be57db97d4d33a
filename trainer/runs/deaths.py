"""Why a worker is gone that did not say so itself: killed for memory, killed by somebody, or crashed."""

import signal
from pathlib import Path

from specs import RunError

_RESUME = "Resume the run from its last checkpoint"
_TAIL_BYTES = 4096
_ENDING = frozenset({"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"})
"""Signals by which somebody ends a process. Windows has only two of them, and no exit status that tells a signal."""


def oom_kills(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many processes were killed here because memory ran out; 0 where the system does not tell.

    The count of our own control group if it has one, as the kernel's counts other containers too.

    Source:
        ``oom_kill`` in memory.events, https://docs.kernel.org/admin-guide/cgroup-v2.html; in memory.oom_control,
        https://docs.kernel.org/admin-guide/cgroup-v1/memory.html; in /proc/vmstat, mm/oom_kill.c.
    """
    for path in (*_counters(proc, cgroups), proc / "vmstat"):
        try:
            counts = dict(line.split(maxsplit=1) for line in path.read_text(encoding="ascii").splitlines())
            return int(counts["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return 0


def _counters(proc: Path, cgroups: Path) -> list[Path]:
    """Return where our control group may count them; a container sees its own group at the root."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    groups = {kinds: name.lstrip("/") for _, kinds, name in (line.split(":", 2) for line in lines)}
    found = []
    for kinds, home, file in (("memory", cgroups / "memory", "memory.oom_control"), ("", cgroups, "memory.events")):
        if kinds in groups:
            found += [home / groups[kinds] / file, home / file]
    return found


def named(status: int | None, *, out_of_memory: bool, log: Path) -> tuple[str, str]:
    """Return the ``error_kind`` and the sentence for a worker that ended without a word.

    Args:
        status: The exit status as ``subprocess`` gives it, negative for a signal; None if nobody waited for it.
        out_of_memory: Whether the system has killed for memory since the worker began.
        log: The worker's output.
    """
    name = _signal(-status) if status is not None and status < 0 else None
    if out_of_memory and (status is None or name == "SIGKILL"):
        rule = "the system killed the worker because the machine's memory ran out"
        way_out = "Lower max_length, lower per_device_train_batch_size or turn on gradient_checkpointing, then retry"
        return "out_of_memory", str(RunError("memory", rule, None, way_out))
    if status is None:
        return "lost", str(
            RunError("worker", "stopped responding: it was killed, or its machine went down", None, _RESUME)
        )
    if name in _ENDING:
        rule = f"somebody or some program ended it ({name})"
        return "killed", str(RunError("worker", rule, None, _RESUME))
    how = f"crashed ({name})" if name else f"exited with status {status}"
    return "crashed", str(
        RunError("worker", f"{how} without giving a reason", _last_line(log), f"See its log. {_RESUME}")
    )


def _signal(number: int) -> str:
    """Return the name of a signal; most of those for real-time use have none."""
    return next((entry.name for entry in signal.Signals if entry == number), f"signal {number}")


def _last_line(log: Path) -> str | None:
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = stream.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return None
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else None
