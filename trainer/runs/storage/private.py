"""Keeps what people train on to themselves: the runs folder, its database and the uploads are this user's alone."""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

FOLDER_MODE = 0o700
FILE_MODE = 0o600


def make_folder(folder: Path) -> None:
    """Make a folder that only this user can look into, or close one that is this user's and nobody else's.

    A folder such as ``/tmp``, or one in which others keep files too, is left as it is.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    if _is_ours(folder):
        _tighten(folder, FOLDER_MODE)


def make_file(path: Path) -> None:
    """Make an empty file that only this user can read, unless there is one."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))


def tighten_files(paths: Iterable[Path]) -> None:
    """Take away from others what files of this user allow them."""
    for path in paths:
        if not path.is_symlink() and path.is_file():
            _tighten(path, FILE_MODE)


def _is_ours(folder: Path) -> bool:
    status = folder.stat()
    if status.st_mode & stat.S_ISVTX:
        return False
    if not status.st_mode & ~FOLDER_MODE & 0o777:
        return False  # closed already
    return all(entry.lstat().st_uid == status.st_uid for entry in folder.iterdir())


def _tighten(path: Path, mode: int) -> None:
    # Another user's file cannot be changed, and some disks know no modes; neither hinders the work.
    with suppress(OSError):
        now = stat.S_IMODE(path.stat().st_mode)
        if now & ~mode:
            path.chmod(now & mode)
