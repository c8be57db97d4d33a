"""Folders that are complete or absent: written under a temporary name, then renamed, if the disk has space."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specs import gib
from trainer.failure import DiskFullError

_WRITING = ".writing-"


@contextmanager
def scratch_folder(home: Path) -> Iterator[Path]:
    """Yield a temporary folder in ``home``, removed at the end; ``tidy`` removes it if the process was killed."""
    with tempfile.TemporaryDirectory(dir=home, prefix=_WRITING) as scratch:
        yield Path(scratch)


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """Yield a folder to write into, then replace ``target`` with it."""
    with scratch_folder(target.parent) as scratch:
        folder = scratch / target.name
        folder.mkdir()
        yield folder
        move(folder, target)


def move(folder: Path, target: Path) -> None:
    """Rename a folder to a name that may exist already; a plain rename cannot replace a folder that has files."""
    if target.exists():
        shutil.rmtree(target)
    folder.replace(target)


def tidy(home: Path) -> None:
    """Remove what a worker left behind when it was killed while writing."""
    for scratch in home.glob(f"{_WRITING}*"):
        shutil.rmtree(scratch)


def require_space(folder: Path, num_bytes: int, purpose: str) -> None:
    """Refuse to start writing what the disk has no space for.

    Raises:
        DiskFullError: If fewer bytes are free on the folder's disk.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        rule = f"{purpose} needs {gib(num_bytes)}"
        raise DiskFullError("disk", rule, f"{gib(free)} free", "Free some space and resume the run")
