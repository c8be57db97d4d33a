"""Why a process of a run on several devices failed, left in the run's folder for the process that leads."""

import json
import time
from pathlib import Path

from trainer import failure

_PATTERN = "failed-*.json"
_PATIENCE_SECONDS = 3.0
"""How long after its own failure the leading process waits for the word of another: the reason comes just after."""


def leave(folder: Path, rank: int, kind: str, sentence: str) -> None:
    """Write down why a process fails, unless it merely lost another one."""
    if kind != failure.GONE:
        scratch = folder / f".failed-{rank}"
        scratch.write_text(json.dumps([kind, sentence]), encoding="utf-8")
        scratch.replace(folder / f"failed-{rank}.json")


def read(folder: Path) -> tuple[str, str] | None:
    """Return the kind and the sentence of a failure, or None while no process has left a word."""
    for path in sorted(folder.glob(_PATTERN)):
        kind, sentence = json.loads(path.read_text(encoding="utf-8"))
        return str(kind), str(sentence)
    return None


def awaited(folder: Path) -> tuple[str, str] | None:
    """Return the word of another process that comes within a few seconds."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while (told := read(folder)) is None and time.monotonic() < until:
        time.sleep(0.1)
    return told


def forget(folder: Path) -> None:
    """Remove the words of an earlier attempt."""
    for path in folder.glob(_PATTERN):
        path.unlink()
