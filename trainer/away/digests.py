"""Hashes of files, remembered for large ones: a model of 16 GB would otherwise be read whole at each start."""

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from specs import paths

_LARGE_BYTES = 8 << 20
"""From here on a hash takes longer than to look it up: 5 ms at 1.6 GB/s."""
_MOST_FILES = 1000
_SETTLED_NS = 2_000_000_000
"""A file that changed less than so long ago may change again within one tick of its disk's clock: FAT's is 2 s."""


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; it is read again once its size, time or number on the disk is another."""
    status = path.stat()
    if status.st_size < _LARGE_BYTES:
        return _read(path)
    name = str(path.resolve())
    mark = [status.st_size, status.st_mtime_ns, status.st_ino]
    known = _known().get(name)
    if isinstance(known, list) and known[:-1] == mark:
        return str(known[-1])
    found = _read(path)
    if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
        _remember(name, [*mark, found])
    return found


def _read(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _file() -> Path:
    return paths.cache() / "digests.json"


def _known() -> Mapping[str, Any]:
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(name: str, entry: list[Any]) -> None:
    """Add an entry, the newest last; what cannot be kept is hashed again next time."""
    others = [(other, known) for other, known in _known().items() if other != name]
    kept = dict([*others[-_MOST_FILES + 1 :], (name, entry)])
    with suppress(OSError):
        _file().parent.mkdir(parents=True, exist_ok=True)
        scratch = _file().with_suffix(f".{time.time_ns()}")
        scratch.write_text(json.dumps(kept), encoding="utf-8")
        scratch.replace(_file())
