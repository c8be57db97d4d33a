"""What a run is called and what it is about, in a line. Pure."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from specs import METHODS
from trainer.data import uploaded
from trainer.runs import distance
from trainer.runs.contract import Run


def title(run: Run) -> str:
    """Return what a run is called: by its person, or else by model and method."""
    return run.name or f"{short_model(run)}, {METHODS[run.plan.method].label}"


def short_model(run: Run) -> str:
    """Return the last part of the name of a run's model."""
    return run.plan.model_name_or_path.rsplit("/", 1)[-1]


def date(seconds: float) -> str:
    """Return a moment as the date and time of this machine."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def data_name(run: Run) -> str:
    """Return the name of a run's data."""
    return uploaded.name_of(Path(run.data.path))


def about(run: Run) -> str:
    """Return what a run is, in a line: model and method if it has a name, where it trains, data, date and ID."""
    kind = f"{short_model(run)}, {METHODS[run.plan.method].label}. " if run.name else ""
    kind += f"{place[0].upper()}{place[1:]}. " if (place := distance.where(run)) else ""
    return f"{kind}{about_data(run)}. Created {date(run.created_at)}, ID {run.id}"


def labels(runs: Sequence[Run], *, beside: str = "") -> list[str]:
    """Return what several runs are called beside each other: their names, or IDs where those would not tell.

    Args:
        runs: The runs.
        beside: What else is named there, which no run then is called.
    """
    times = Counter([*(run.name for run in runs), beside])
    return [run.name if run.name and times[run.name] == 1 else run.id for run in runs]


def about_data(run: Run) -> str:
    """Return the name of a run's data, and how much of it is there to learn, as far as that is known."""
    learned = run.details.get("learned")
    rows = "" if learned is None else f", {learned:,} rows to learn"
    return f"Data: {data_name(run)}{rows}"
