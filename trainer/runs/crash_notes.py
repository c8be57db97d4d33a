"""Why a process of a run on several devices failed: a note in the run's folder for the leading process."""

import json
import time
from pathlib import Path

from trainer import failure

_PATTERN = "failed-*.json"
_WAIT_SECONDS = 3.0
"""How long after its own failure the leading process waits for another's note, which comes shortly after."""


def leave(folder: Path, rank: int, kind: str, sentence: str) -> None:
    """Write down why a process failed, unless it merely lost contact with another one."""
    if kind != failure.GONE:
        scratch = folder / f".failed-{rank}"
        scratch.write_text(json.dumps([kind, sentence]), encoding="utf-8")
        scratch.replace(folder / f"failed-{rank}.json")


def read(folder: Path) -> tuple[str, str] | None:
    """Return the kind and the sentence of a failure, or None while no process has left a note."""
    for path in sorted(folder.glob(_PATTERN)):
        kind, sentence = json.loads(path.read_text(encoding="utf-8"))
        return str(kind), str(sentence)
    return None


def awaited(folder: Path) -> tuple[str, str] | None:
    """Return the note of another process if it comes within a few seconds."""
    until = time.monotonic() + _WAIT_SECONDS
    while (note := read(folder)) is None and time.monotonic() < until:
        time.sleep(0.1)
    return note


def forget(folder: Path) -> None:
    """Remove the notes of an earlier attempt."""
    for path in folder.glob(_PATTERN):
        path.unlink()
