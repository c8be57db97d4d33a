"""Which executor takes runs to which kind of place."""

import importlib
from collections.abc import Mapping

from trainer.away.executor import Executor
from trainer.runs.places import Where, where

_MODULES: Mapping[str, str] = {
    "ssh": "trainer.away.ssh",
    "slurm": "trainer.away.slurm",
    "ray": "trainer.away.ray",
}


def executor_of(place: str | Where) -> Executor:
    """Return what takes runs to a place.

    Raises:
        RunError: If its package is not installed.
    """
    found = where(place) if isinstance(place, str) else place
    # Each imports what only it needs.
    made: Executor = importlib.import_module(_MODULES[found.kind]).executor(found)
    return made
