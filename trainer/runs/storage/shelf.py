"""How a person keeps runs in order: names and notes, an archive, and a trash from which a deleted run can come back.

A deleted run keeps its rows and its files, which lie in ``trash`` in the runs folder, until ``sweep`` removes both.
"""

import itertools
import os
import shutil
import sqlite3
import time
import unicodedata
from contextlib import suppress
from pathlib import Path

from specs import RunError
from specs.signs import is_seen, is_unseen
from trainer.runs import processes
from trainer.runs.contract import ACTIVE, State
from trainer.runs.storage import mirror, ownership, private
from trainer.runs.storage.rows import update

TRASH = "trash"
"""The folder of deleted runs, within the runs folder."""

TRASH_DAYS = 7
"""How long a deleted run can come back. A choice: over a weekend and a few days more."""

IN_ITS_PLACE = "in-its-place"
"""What lay where a deleted run's folder came back to, within that folder."""

LONGEST_NAME = 80
LONGEST_NOTE = 2_000
_DAY_SECONDS = 86_400


def describe(db: sqlite3.Connection, run_id: str, *, name: str | None, note: str | None) -> None:
    """Name a run, or write a note to it; None leaves what there is, an empty text takes it away.

    Raises:
        RunError: If there is no such run, or the text cannot be kept.
    """
    ownership.state_of(db, run_id)
    if name is not None:
        update(db, run_id, name=_name(name))
    if note is not None:
        update(db, run_id, note=_note(note))


def archive(db: sqlite3.Connection, run_id: str, *, archived: bool) -> None:
    """Put a run into the archive, or take it out.

    Raises:
        RunError: If there is no such run.
    """
    ownership.state_of(db, run_id)
    update(db, run_id, archived_at=time.time() if archived else None)


def throw(db: sqlite3.Connection, root: Path, run_id: str) -> None:
    """Delete a run: hide it, and move its files into the trash.

    The caller's transaction ends with this, so that the files move last.

    Raises:
        RunError: If there is no such run, or it is not over, or a silent worker may still write.
    """
    require_over(db, run_id, "deleted")
    # Without its token, the click that once made it can make a new one.
    update(db, run_id, deleted_at=time.time(), token=None)
    trash = root / TRASH
    private.make_folder(trash)
    remove(trash / run_id)  # left by a database that was lost
    _move(root / run_id, trash / run_id)
    with suppress(OSError):
        os.utime(trash / run_id)  # says when it was deleted, should the database be lost


def require_over(db: sqlite3.Connection, run_id: str, deed: str) -> None:
    """Refuse to touch the files of a run to which a worker writes, or may still write.

    Raises:
        RunError: If there is no such run, or it is not over, or a silent worker may still write.
    """
    state = ownership.state_of(db, run_id)
    if state in ACTIVE or state is State.QUEUED:
        raise RunError(f"run {run_id}", f"can be {deed} only once it is over", str(state), "Stop it first")
    process = db.execute("SELECT process FROM runs WHERE id = ?", (run_id,)).fetchone()["process"]
    if state is State.LOST and process is not None and processes.lives(process):
        number = process.split()[0]
        way_out = "Resume it, or end that process, and try again"
        raise RunError(f"run {run_id}", f"may still be written by process {number}", None, way_out)


def named(db: sqlite3.Connection) -> frozenset[str]:
    """Return the files of data that runs name, the deleted ones too, which can come back."""
    rows = db.execute("SELECT json_extract(data, '$.path') AS path FROM runs")
    return frozenset(os.path.realpath(row["path"]) for row in rows)


def take_back(db: sqlite3.Connection, root: Path, run_id: str) -> None:
    """Bring a deleted run and its files back.

    Raises:
        RunError: If it is not in the trash.
    """
    known = mirror.ID.fullmatch(run_id)
    query = "SELECT id FROM runs WHERE id = ? AND deleted_at IS NOT NULL"
    if not known or db.execute(query, (run_id,)).fetchone() is None:
        raise RunError("run", "must be the id of a deleted run", run_id, "See the list of deleted runs")
    update(db, run_id, deleted_at=None)
    _move(root / TRASH / run_id, root / run_id)


def expired(db: sqlite3.Connection, root: Path, days: float | None = None) -> list[Path]:
    """Forget the runs that were deleted so many days ago, and return their folders, for the caller to remove.

    Also returns folders of runs that no database knows any more, and puts back those of runs that are not deleted: a
    process was killed between moving them and saying so.
    """
    before = time.time() - (TRASH_DAYS if days is None else days) * _DAY_SECONDS
    db.execute("DELETE FROM runs WHERE deleted_at < ?", (before,))
    kept = {row["id"]: row["deleted_at"] for row in db.execute("SELECT id, deleted_at FROM runs")}
    gone = []
    for folder in (root / TRASH).glob("*"):
        with suppress(OSError):  # removed by another process at this moment, or its place is taken
            if folder.name in kept and kept[folder.name] is None:
                _move(folder, root / folder.name)
            elif folder.name not in kept and folder.lstat().st_mtime < before:
                gone.append(folder)
    return gone


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, as far as the system allows."""
    shutil.rmtree(folder, ignore_errors=True)


def _move(folder: Path, target: Path) -> None:
    """Rename a run's folder, if it has one; what lies in its place then lies within it, unless it is empty."""
    if not folder.is_dir():
        return
    with suppress(OSError):
        target.rmdir()  # made by asking for its name
    if os.path.lexists(target):
        target.rename(_free(folder / IN_ITS_PLACE))
    folder.rename(target)


def _free(path: Path) -> Path:
    """Return a name that nothing has: this one, or one with a number."""
    others = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(one for one in itertools.chain([path], others) if not os.path.lexists(one))


def _name(text: str) -> str:
    # Of two ways to write one letter, such as with its accent apart, one is kept.
    name = " ".join(unicodedata.normalize("NFC", _stored("name", text)).split())
    if len(name) > LONGEST_NAME or (name and not is_seen(name)):
        rule = f"must be one line of at most {LONGEST_NAME} characters, each of which is seen"
        raise RunError("name", rule, name)
    return name


def _note(text: str) -> str:
    lines = _stored("note", text).strip().splitlines()
    note = "\n".join("".join(" " if is_unseen(sign) else sign for sign in line) for line in lines)
    if len(note) > LONGEST_NOTE:
        raise RunError("note", f"must have at most {LONGEST_NOTE:,} characters", f"{len(note):,}", "Shorten it")
    return note


def _stored(what: str, text: str) -> str:
    """Return a text without what SQLite cannot keep.

    Raises:
        RunError: If it is no Unicode.
    """
    try:
        return text.replace("\0", "").encode().decode()
    except UnicodeEncodeError as error:
        raise RunError(what, "must be valid Unicode", ascii(text[:40])) from error
