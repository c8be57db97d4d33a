"""Folders that are complete or absent: written under a temporary name, then renamed, if the disk has space."""

import importlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from specs import RunError, gib
from trainer.failure import DiskFullError

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None
"""What locks files; without it, nothing is locked, and only age tells what was abandoned."""

_WRITING = ".writing-"
_ABANDONED_SECONDS = 24 * 3600
"""How old a folder must be to count as abandoned where no lock tells."""


@contextmanager
def interlock(path: Path) -> Iterator[None]:
    """Wait until no other process holds this lock, and hold it; the system frees it when its process ends."""
    with path.open("ab") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def scratch_folder(home: Path) -> Iterator[Path]:
    """Yield a temporary folder in ``home``, which is made, removed at the end; ``tidy`` removes it after a kill."""
    home.mkdir(parents=True, exist_ok=True)
    tidy(home)
    scratch, handle = _claimed(home)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(handle)


def _claimed(home: Path) -> tuple[Path, int]:
    """Make a temporary folder, locked until its handle is closed or this process ends, however it ends."""
    while True:
        scratch = Path(tempfile.mkdtemp(dir=home, prefix=_WRITING))
        handle = os.open(scratch if fcntl else os.devnull, os.O_RDONLY)
        if fcntl:
            fcntl.flock(handle, fcntl.LOCK_EX)
        if scratch.is_dir():  # another process may have tidied it away before it was locked
            return scratch, handle
        os.close(handle)


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """Yield a folder to write into, then replace ``target`` with it."""
    with scratch_folder(target.parent) as scratch:
        folder = scratch / target.name
        folder.mkdir()
        yield folder
        move(folder, target)


@contextmanager
def complete(target: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write into, which takes the place of ``target`` once it is whole, and is gone if it never is.

    Raises:
        RunError: If there is no such folder, or it cannot be written.
    """
    written = target.with_name(f"{target.name}{_WRITING}{secrets.token_hex(4)}")
    try:
        if target.is_dir():
            raise RunError(str(target), "is a folder", None, "Name a file")
        with written.open("wb") as stream:
            yield stream
        written.replace(target)
    except OSError as error:
        raise RunError(str(target), "cannot be written", error.strerror, "Name another file, or free space") from error
    finally:
        written.unlink(missing_ok=True)


def move(folder: Path, target: Path) -> None:
    """Rename a folder to a name that may exist already; a plain rename cannot replace a folder that has files."""
    if target.exists():
        shutil.rmtree(target)
    folder.replace(target)


def put_out(folder: Path) -> Path:
    """Rename a folder that is to be removed, and return it: ``tidy`` removes it if this process is killed before."""
    doomed = folder.with_name(f"{_WRITING}{secrets.token_hex(4)}")
    folder.rename(doomed)
    return doomed


def settle(scratch: Path, folder: Path) -> None:
    """Move what is complete in a scratch folder into a folder, each in place of what that has under its name."""
    for new in sorted(scratch.iterdir()):
        old = folder / new.name
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(put_out(old), ignore_errors=True)
        new.replace(old)


def tidy(home: Path) -> None:
    """Remove what processes left behind in a folder when they were killed while writing, and nothing still written."""
    for scratch in home.glob(f"{_WRITING}*"):
        with suppress(OSError):  # another user's, still locked by its owner, or removed by it at this moment
            _remove_abandoned(scratch)


def _remove_abandoned(scratch: Path) -> None:
    if fcntl is None:
        if time.time() - scratch.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(scratch)
        return
    handle = os.open(scratch, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(scratch)
    finally:
        os.close(handle)


def require_new(folder: Path) -> None:
    """Refuse a place at which no new folder can be made; nothing stays there, whatever ends the work that follows.

    Raises:
        RunError: If something is there already, or nothing can be written there.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(str(folder), "must be a new or empty folder", None, "Name another one")
        with tempfile.TemporaryDirectory(dir=next(above for above in folder.parents if above.exists())):
            return
    except OSError as error:
        raise RunError(str(folder), "cannot be written", error.strerror, "Name another folder") from error


def require_space(folder: Path, num_bytes: int, purpose: str) -> None:
    """Refuse to start writing what the disk has no space for.

    Raises:
        DiskFullError: If fewer bytes are free on the folder's disk.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        rule = f"{purpose} needs {gib(num_bytes)}"
        raise DiskFullError("disk", rule, f"{gib(free)} free", "Free some space and resume the run")
