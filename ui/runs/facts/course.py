"""How far a race is while it is held: the plan that trains now, what is done of all, and how long the rest takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.runs.contract import Metric, Run
from trainer.runs.race import Race
from ui.runs.facts import quantities, run_data


@dataclass(frozen=True, slots=True)
class Course:
    """A race between its comparisons. A trial is known by its number, from 0."""

    trial: int
    """The one that trains now, or did last."""
    points: Sequence[Metric]
    """What that has measured."""
    done: float
    """The share of the whole race that is done, the winner's training to its end included."""
    seconds_left: float | None
    """How long the rest takes at the speed of recent steps, without saving and answering; None until it is known."""


def course(run: Run) -> Course | None:
    """Return how far the race of a run is; None where none is held."""
    race = run.race
    if race is None or not run.races or run.is_over or race.now is None:
        return None
    points = run_data.store().trial_metrics(run.id, race.now)
    total = _steps(run, race)
    if not points or not total:
        return Course(race.now, points, race.done, None)
    reached = len(race.losses.get(race.now, ()))
    before = (0.0, *race.rungs)[reached]
    further = max(0.0, points[-1].step / total - before) if race.now not in race.out else 0.0
    done = min(1.0, race.done + further / race.runs_time)
    left = quantities.newest(points, "eta_seconds")
    to_go = total - points[-1].step
    seconds = left / to_go * (1 - done) * race.runs_time * total if left is not None and to_go else None
    return Course(race.now, points, done, seconds)


def _steps(run: Run, race: Race) -> int:
    """Return the steps of one plan's whole training: as measured, as planned, or as foretold; 0 if nobody knows."""
    if known := race.steps.get(race.now or 0):
        return known
    foretold = ((run.estimate or {}).get("time") or {}).get("steps")
    return run.plan.max_steps if run.plan.max_steps > 0 else int(foretold or 0)
