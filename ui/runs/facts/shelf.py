"""What a person does with kept runs: find, name, copy, archive and delete them. Draws nothing."""

import functools
import time
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from specs import METHODS
from trainer.runs.contract import Run, State
from trainer.runs.storage.shelf import LONGEST_NAME, LONGEST_NOTE, TRASH_DAYS
from ui.runs.facts import conversations, memory, run_data, titles

__all__ = ["LONGEST_NAME", "LONGEST_NOTE", "ORDERS", "TRASH_DAYS", "Wanted", "delete", "found", "size_bytes"]

ORDERS = ("Newest", "Oldest", "Name", "Lowest loss", "Highest peak")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which runs to list, and in which order."""

    words: str = ""
    """Each must occur in what a run is called, what it trains, or what its person noted."""
    states: Collection[State] = ()
    """Empty wants all."""
    models: Collection[str] = ()
    archived: bool = False
    """Whether to list the archive instead."""
    order: str = ORDERS[0]


def found(runs: Sequence[Run], wanted: Wanted, losses: Mapping[str, float]) -> list[Run]:
    """Return the wanted runs in their order; those without the figure that orders come last."""
    words = unicodedata.normalize("NFC", wanted.words).casefold().split()
    kept = [run for run in runs if _is_wanted(run, wanted) and all(word in _said(run) for word in words)]
    if wanted.order == "Oldest":
        return kept[::-1]
    if wanted.order == "Name":
        return sorted(kept, key=lambda run: titles.title(run).casefold())
    if wanted.order == "Lowest loss":
        return sorted(kept, key=lambda run: losses.get(run.id, float("inf")))
    if wanted.order == "Highest peak":
        return sorted(kept, key=lambda run: -(memory.measured_peak(run) or 0))
    return kept


def _is_wanted(run: Run, wanted: Wanted) -> bool:
    if (run.archived_at is not None) != wanted.archived:
        return False
    if wanted.models and titles.short_model(run) not in wanted.models:
        return False
    return not wanted.states or run.state in wanted.states


def _said(run: Run) -> str:
    """Return everything about a run in which words are looked for."""
    data = titles.data_name(run)
    method = METHODS[run.plan.method].label
    return f"{run.id} {run.name} {run.note} {run.plan.model_name_or_path} {method} {data} {run.state}".casefold()


def size_bytes(run: Run) -> int:
    """Return what the files of a run take on the disk; of one at work, as of a few seconds ago."""
    since = run.finished_at if run.is_over else time.monotonic() // 10
    return _size_bytes(run_data.store().folder, run.id, run.attempt, since)


@functools.lru_cache(maxsize=1024)
def _size_bytes(_folder: Path, run_id: str, _attempt: int, _since: float | None) -> int:
    return run_data.store().size_bytes(run_id)


def delete(run: Run) -> int:
    """Put a run into the trash, and return what its files take there.

    Raises:
        RunError: If it is not over.
    """
    taken = run_data.store().size_bytes(run.id)
    run_data.store().delete(run.id)
    conversations.close(run)
    return taken
