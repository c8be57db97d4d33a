"""Checkpoints and results on disk: written under a temporary name and renamed, so that each is whole or not there."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKPOINTS = "checkpoints"
KEPT = 2
"""How many checkpoints are kept: the newest, and the one before it should the newest be damaged."""

_NAME = re.compile(r"checkpoint-(\d+)")
# transformers 5 writes it last but for rotation: a folder without it was never finished.
_LAST_FILE = "trainer_state.json"


def newest(run_folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None."""
    return next(iter(_checkpoints(run_folder)), None)


@contextmanager
def written(run_folder: Path) -> Iterator[Path]:
    """Yield a folder to write ``checkpoint-N`` into; then move that into place and drop the older ones."""
    home = run_folder / CHECKPOINTS
    home.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run_folder, prefix=".writing-") as scratch:
        yield Path(scratch)
        for folder in Path(scratch).glob("checkpoint-*"):
            _move(folder, home / folder.name)
    for old in _checkpoints(run_folder)[KEPT:]:
        shutil.rmtree(old)


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """Yield a folder to write into; then put it in the place of ``target``."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as scratch:
        folder = Path(scratch) / target.name
        folder.mkdir()
        yield folder
        _move(folder, target)


def _move(folder: Path, target: Path) -> None:
    """Rename a folder to a name that may be taken; a rename of folders cannot replace one that has files."""
    if target.exists():
        shutil.rmtree(target)
    folder.replace(target)


def _checkpoints(run_folder: Path) -> list[Path]:
    """Return the whole checkpoints, the newest first."""
    found = {
        int(match[1]): folder
        for folder in (run_folder / CHECKPOINTS).glob("checkpoint-*")
        if (match := _NAME.fullmatch(folder.name)) and (folder / _LAST_FILE).is_file()
    }
    return [found[step] for step in sorted(found, reverse=True)]
