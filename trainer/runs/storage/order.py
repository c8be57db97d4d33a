"""Which rows of the data each step of a run read: files of the run's folder, one for each pass over the data."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from specs import DataError
from trainer.data.files import reading
from trainer.data.row import Finding
from trainer.runs.contract import Run

FOLDER = "order"
_LAST_READ = 200_000
"""Rows after this one are told by their numbers: finding them in the file would take seconds."""
_BEGINNING = 80
"""Characters that are shown of a row."""
_NO_WORDS = frozenset({"role", "from"})
"""Keys whose values say who speaks, not what is said."""


def note(run_folder: Path, first_step: int, steps: Sequence[Sequence[int]], *, kept_steps: int) -> None:
    """Write which rows each step of a pass reads, and forget passes that ended long ago.

    Args:
        run_folder: The run's.
        first_step: The number of the pass's first step.
        steps: For each step the numbers of its rows in the file, from 1.
        kept_steps: How many steps before the pass are still wanted.
    """
    home = run_folder / FOLDER
    home.mkdir(exist_ok=True)
    values = {
        "rows": np.fromiter(itertools.chain.from_iterable(steps), dtype=np.int64),
        "ends": np.cumsum([len(rows) for rows in steps]),
    }
    scratch = home / f"{first_step}.new"
    save_file(values, scratch)
    scratch.replace(home / f"{first_step}.safetensors")
    firsts = sorted(_passes(run_folder))
    for first, following in itertools.pairwise(firsts):
        if following <= first_step - kept_steps:
            (home / f"{first}.safetensors").unlink(missing_ok=True)


def rows_of(run_folder: Path, step: int) -> list[int]:
    """Return the numbers of the rows that a step read, in order and each once; empty if they are not known."""
    first = max((one for one in _passes(run_folder) if one <= step), default=None)
    if first is None:
        return []
    try:
        values = load_file(run_folder / FOLDER / f"{first}.safetensors")
        starts = [0, *values["ends"].tolist()]
        rows = values["rows"][starts[step - first] : starts[step - first + 1]]
    except (OSError, SafetensorError, KeyError, IndexError):
        return []
    return sorted({int(row) for row in rows})


def told(run: Run, run_folder: Path, step: int) -> dict[int, str]:
    """Return the rows that a step read by their numbers, with their beginnings as far as the file still has them."""
    numbers = rows_of(run_folder, step)
    return dict.fromkeys(numbers, "") | dict(_beginnings(run, numbers))


def _passes(run_folder: Path) -> list[int]:
    return [int(path.stem) for path in (run_folder / FOLDER).glob("*.safetensors") if path.stem.isdecimal()]


def _beginnings(run: Run, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Yield the beginnings of rows of a file that is as the run read it."""
    if not numbers or numbers[-1] > _LAST_READ:
        return
    with suppress(DataError):
        run.data.require_unchanged(run.details.get("data_sha256"))
        for number, row in itertools.islice(reading.rows(Path(run.data.path), run.data.split), numbers[-1]):
            if number in numbers and not isinstance(row, Finding):
                text = " ".join(" ".join(_words(row)).split())
                yield number, text if len(text) <= _BEGINNING else f"{text[:_BEGINNING]}..."


def _words(value: Any) -> Iterator[str]:
    """Yield all texts within a value of a row, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (word for key, one in value.items() if key not in _NO_WORDS for word in _words(one))
    elif isinstance(value, Sequence):
        yield from (word for one in value for word in _words(one))
