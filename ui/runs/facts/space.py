"""What takes space on the disk, for the page, and its removal. Draws nothing."""

from collections.abc import Sequence

from estimator import cached
from specs.taken import Taken
from trainer.results import disk
from trainer.results.disk import Freed
from ui.parts.writing import Columns
from ui.runs.facts import run_data


def found() -> list[Taken]:
    """Return all that LoRAFit takes on the disk, by kind."""
    return disk.found(run_data.store(), cached.kept())


def free_bytes() -> int:
    """Return what is free on the disk of the runs."""
    return disk.free_bytes(run_data.store())


def remove(kind: str) -> Freed:
    """Remove what there is of a kind now."""
    one = next((one for one in found() if one.kind == kind), None)
    return disk.remove(run_data.store(), one) if one else Freed(kind=kind, num_bytes=0)


def columns(kinds: Sequence[Taken]) -> Columns:
    """Return the kinds as a table of plain numbers and words."""
    return {
        "What": [one.label for one in kinds],
        "Number": [one.number for one in kinds],
        "Bytes": [one.num_bytes for one in kinds],
        "Removing costs": [one.cost for one in kinds],
    }
