"""Why a runs folder cannot be used: what SQLite reports, as a sentence with the way out."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specs import RunError

_ELSEWHERE = "or set LORAFIT_RUNS to another folder"
_FULL = ("is on a full disk, or one that takes no more files", f"Free some space, {_ELSEWHERE}")
_REFUSED = ("may not be written: the disk is read-only, or its permissions forbid it", f"Change that, {_ELSEWHERE}")
_RULES = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _REFUSED,
    sqlite3.SQLITE_PERM: _REFUSED,
    sqlite3.SQLITE_AUTH: _REFUSED,
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", f"Check that its folder can be written, {_ELSEWHERE}"),
    sqlite3.SQLITE_BUSY: ("is locked by another process", "End that process, or try again"),
    sqlite3.SQLITE_LOCKED: ("is locked by another process", "End that process, or try again"),
    sqlite3.SQLITE_IOERR: ("cannot be read or written: the disk reports an error", f"Check the disk, {_ELSEWHERE}"),
}
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY = 0xFF
"""The part of SQLite's error codes that names the kind: https://www.sqlite.org/rescode.html."""


class StoreError(RunError, sqlite3.OperationalError):
    """The database cannot be used now: a sentence for a person, and for a worker a reason to wait."""


class DamagedError(RunError, sqlite3.DatabaseError):
    """The database is damaged: its bytes are not what SQLite wrote."""


class MissingError(StoreError):
    """The database was removed while it was used, and an empty file is in its place."""


@contextmanager
def told(file: Path) -> Iterator[None]:
    """Raise what SQLite reports about a database as a sentence.

    Raises:
        StoreError: If it cannot be used now.
        DamagedError: If it is damaged.
        MissingError: If it is empty.
    """
    try:
        yield
    except (RunError, sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # told already, or a mistake of ours
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
        if code in _DAMAGED:
            raise DamagedError(str(file), "is damaged", None, "Try again: it is set aside and rebuilt") from error
        raise _store_error(file, code, error) from error


def _store_error(file: Path, code: int, error: sqlite3.Error) -> StoreError:
    """Return the sentence for a code; SQLite reports a full disk also as a failed write or opening."""
    if code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN} and _is_full(file.parent):
        code = sqlite3.SQLITE_FULL
    if code == sqlite3.SQLITE_CANTOPEN and not os.access(file.parent, os.W_OK):
        code = sqlite3.SQLITE_READONLY
    if str(error).startswith("no such table"):
        return MissingError(
            str(file), "was removed or emptied", None, "Try again: it is rebuilt from the runs' folders"
        )
    rule, way_out = _RULES.get(code, ("cannot be used", "Move it away: the runs are rebuilt from their folders"))
    return StoreError(str(file), rule, None if code in _RULES else str(error), way_out)


def _is_full(folder: Path) -> bool:
    try:
        disk = os.statvfs(folder)
    except (OSError, AttributeError):
        return False
    return disk.f_bavail * disk.f_frsize < _LEAST_BYTES or (disk.f_files > 0 and disk.f_favail == 0)


_LEAST_BYTES = 64 * 1024
"""Free space below which a disk counts as full: SQLite needs 32 KiB for the index of its write-ahead log alone."""
