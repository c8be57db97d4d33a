"""Runs folders that cannot be used, of real disks, users and files; what this machine does not allow is skipped."""

import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

NOBODY = 65534
MOUNT = shutil.which("mount")


@contextmanager
def disk(place: Path, options: str) -> Iterator[Path]:
    """Mount a small disk in memory."""
    place.mkdir()
    if MOUNT is None or subprocess.run([MOUNT, "-t", "tmpfs", "-o", options, "t", place], check=False).returncode:
        pytest.skip("this machine mounts no disks for tests")
    try:
        yield place
    finally:
        subprocess.run([f"{MOUNT[:-5]}umount", "-l", place], check=True)


def fill(place: Path) -> None:
    """Use up all space of a disk."""
    with suppress(OSError), (place / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(b"x" * 4096)


def _freeze(place: Path) -> None:
    subprocess.run([MOUNT, "-o", "remount,ro", place], check=True)


@contextmanager
def full(folder: Path) -> Iterator[tuple[Path, str]]:
    with disk(folder / "disk", "size=16k") as place:
        yield place / "runs", "is on a full disk"


@contextmanager
def filled(folder: Path) -> Iterator[tuple[Path, str]]:
    with disk(folder / "disk", "size=256k") as place:
        fill(place)
        yield place / "runs", "is on a full disk"


@contextmanager
def without_inodes(folder: Path) -> Iterator[tuple[Path, str]]:
    with disk(folder / "disk", "size=4m,nr_inodes=3") as place:
        (place / "one").touch()
        yield place / "runs", "takes no more files"


@contextmanager
def read_only(folder: Path) -> Iterator[tuple[Path, str]]:
    with disk(folder / "disk", "size=4m") as place:
        _freeze(place)
        yield place / "runs", "is on a read-only disk"


@contextmanager
def frozen(folder: Path) -> Iterator[tuple[Path, str]]:
    """A runs folder that was used before its disk became read-only."""
    from trainer.runs.store import Store  # noqa: PLC0415 - the other kinds need none of it

    with disk(folder / "disk", "size=4m") as place:
        Store(place / "runs")
        _freeze(place)
        yield place / "runs", "may not be written"


@contextmanager
def a_file(folder: Path) -> Iterator[tuple[Path, str]]:
    (folder / "runs").write_text("not a folder")
    yield folder / "runs", "is not a folder"


@contextmanager
def below_a_file(folder: Path) -> Iterator[tuple[Path, str]]:
    (folder / "file").touch()
    yield folder / "file" / "runs", "lies in something that is not a folder"


@contextmanager
def a_loop(folder: Path) -> Iterator[tuple[Path, str]]:
    (folder / "runs").symlink_to(folder / "runs")
    yield folder / "runs", "is not a folder"


@contextmanager
def a_folder_as_database(folder: Path) -> Iterator[tuple[Path, str]]:
    (folder / "runs" / "runs.sqlite").mkdir(parents=True)
    yield folder / "runs", "cannot be opened"


@contextmanager
def foreign(folder: Path) -> Iterator[tuple[Path, str]]:
    (folder / "runs").mkdir()
    with sqlite3.connect(folder / "runs" / "runs.sqlite") as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()
    yield folder / "runs", "is the database of another program"


@contextmanager
def too_long(folder: Path) -> Iterator[tuple[Path, str]]:
    yield folder / ("n" * 300), "has a longer name than is possible"


Unusable = Callable[[Path], "contextmanager[tuple[Path, str]]"]
KINDS: tuple[Unusable, ...] = (
    *(full, filled, without_inodes, read_only, frozen),
    *(a_file, below_a_file, a_loop, a_folder_as_database, foreign, too_long),
)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
