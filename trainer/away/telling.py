"""What changed in a run's folder since somebody looked: read from its files alone, so that any place can tell."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.runs.storage.mirror import EVENTS, METRICS, RECORD
from trainer.runs.store import LOG

_MOST_BYTES = 4 << 20
"""What is read of a file at once: a step is told in about 250 bytes."""
_RUN = (
    "state",
    "phase",
    "total_steps",
    "measured",
    "details",
    "started_at",
    "finished_at",
    "error",
    "error_kind",
    "attempt",
)
"""What is told of a run's record."""


def changes(home: Path, position: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return what changed since a position, and the position after that.

    The record comes last, so that a run that is over has told all its steps before.
    """
    found: list[dict[str, Any]] = []
    after = dict(position)
    record_at = _mark(home / RECORD)
    for file, kind in ((METRICS, "metric"), (EVENTS, "event")):
        text, after[file] = _read(home / file, position.get(file))
        lines = text.split("\n")
        for number, line in enumerate(lines):
            try:
                found.append({kind: json.loads(line)})
            except ValueError:
                if line and number == len(lines) - 1:  # still being written
                    after[file][1] -= len(line.encode())
    text, after[LOG] = _read(home / LOG, position.get(LOG))
    if text:
        found.append({"log": text})
    if record_at is not None and record_at != position.get(RECORD):
        try:
            record = json.loads((home / RECORD).read_text(encoding="utf-8"))
            run = {name: record["run"].get(name) for name in _RUN}
            found.append({"run": run, "answers": record["answers"]})
            after[RECORD] = record_at
        except (OSError, ValueError, LookupError):
            pass  # it is being replaced: told next time
    return found, after


def _mark(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_ino, status.st_mtime_ns, status.st_size]


def _read(path: Path, seen: list[int] | None) -> tuple[str, list[int]]:
    """Return what was added to a file, or all of one that was replaced, and where that ends."""
    try:
        with path.open("rb") as stream:
            status = path.stat()
            begin = seen[1] if seen and seen[0] == status.st_ino and seen[1] <= status.st_size else 0
            stream.seek(begin)
            raw = stream.read(_MOST_BYTES)
    except OSError:
        return "", seen or [0, 0]
    if len(raw) == _MOST_BYTES:  # the rest comes next time, from the beginning of a line
        raw = raw[: raw.rfind(b"\n") + 1] or raw
    return raw.decode("utf-8", errors="replace"), [status.st_ino, begin + len(raw)]


def last_line(path: Path) -> str:
    """Return the last line that was printed into a file; empty if there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
