"""What takes space on the disk: things of one kind, how much they take, and what removing them costs."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Things of one kind on the disk."""

    kind: str
    """One word, by which they are removed."""
    label: str
    """What they are, as a heading."""
    number: int
    num_bytes: int
    cost: str
    """What removing them costs, in a sentence; of what is not removed, why not."""
    paths: tuple[Path, ...] = ()
    """The files and folders that are removed; none if they are not removed by their kind."""

    @property
    def is_removable(self) -> bool:
        """Whether they can be removed by their kind."""
        return bool(self.paths)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        values = {"kind": self.kind, "label": self.label, "number": self.number, "bytes": self.num_bytes}
        return {**values, "cost": self.cost, "removable": self.is_removable}


def taken(kind: str, label: str, paths: Iterable[Path], cost: str, *, number: int | None = None) -> Taken:
    """Return files and folders as things of one kind, of which there are as many unless ``number`` says otherwise."""
    found = tuple(paths)
    size = sum(size_bytes(path) for path in found)
    count = len(found) if number is None else number
    return Taken(kind=kind, label=label, number=count, num_bytes=size, cost=cost, paths=found)


def size_bytes(path: Path) -> int:
    """Return what a file, or all that is in a folder, takes on the disk; links are not followed."""
    if path.is_symlink():
        return 0
    total = 0
    for one in path.rglob("*") if path.is_dir() else (path,):
        with suppress(OSError):  # a checkpoint that is removed at this moment
            status = one.lstat()
            total += status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size
    return total
