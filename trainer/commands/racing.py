"""Prints races: what each plan is called, how far it came, and which one won."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.runs import ablation
from trainer.runs.contract import Metric, Run
from trainer.runs.race import Race, percent
from trainer.runs.store import Store

HELP = "train several plans against each other, and the best to its end"
OPTIONS: Mapping[str, dict[str, Any]] = {
    "--vary": {
        "action": "append",
        "required": True,
        "metavar": "FIELD=VALUE,VALUE",
        "help": "values of a field to compare, such as learning_rate=1e-4,2e-4; names of modules are joined by +",
    }
}
"""What a race is asked for besides what a run is."""


_VARY = OPTIONS["--vary"]
ABLATION_HELP = "train a grid of plans with several seeds each, none dropped, and compare them"
ABLATION_OPTIONS: Mapping[str, dict[str, Any]] = {
    "--vary": {
        **_VARY,
        "required": False,
        "help": f"{_VARY['help']}, or written as {', '.join(ablation.SETS)}; default: ranks 1 to 64 by these sets",
    },
    "--seeds": {"type": int, "default": ablation.SEEDS, "metavar": "N", "help": "trainings of each plan"},
}
"""What an ablation is asked for besides what a run is."""


def grid(vary: Sequence[str] | None, modules: Sequence[str]) -> list[str]:
    """Return what an ablation varies: what was asked for, or the ranks and sets of modules of the textbook."""
    usual = [("r", ",".join(map(str, ablation.RANKS))), ("target_modules", ",".join(ablation.sets_of(modules)))]
    return [*vary] if vary else [f"{name}={values}" for name, values in usual]


def described(run: Run) -> dict[str, Any] | None:
    """Return the race of a run as plain JSON values, with what became of each plan in words; None without one."""
    race = run.race
    if race is None:
        return None
    trials = range(len(race.changes))
    table = [
        {"plan": race.label(trial, run.plan), "outcome": race.outcome(trial, trains=run.is_active)} for trial in trials
    ]
    found = [one.to_dict() for one in ablation.results(race, run.plan)] if race.repeats else []
    told = {"rungs": [*race.rungs], "runs_time": race.runs_time, "hint": race.hint, "table": table, "results": found}
    return {**race.to_dict(), **told}


def lines(run: Run, race: Race) -> Iterator[str]:
    """Yield the table of a race: the held-out loss of each plan at each comparison, and what became of it."""
    if race.repeats:
        yield from _grid_lines(run, race)
        return
    labels = [race.label(trial, run.plan) for trial in range(len(race.changes))]
    width = max(len(label) for label in ("held-out loss after", *labels))
    head = "".join(f"{percent(share):>10}" for share in race.rungs)
    yield f"  race of {len(labels)} plans, {race.runs_time:.1f} runs' time"
    yield f"    {'held-out loss after':<{width}}{head}"
    for trial, label in enumerate(labels):
        reached = [f"{loss:.4f}" for loss in race.losses.get(trial, ())]
        cells = "".join(f"{cell:>10}" for cell in [*reached, *[""] * (len(race.rungs) - len(reached))])
        yield f"    {label:<{width}}{cells}  {race.outcome(trial, trains=run.is_active)}"
    if race.hint:
        yield f"    {race.hint}"


def _grid_lines(run: Run, race: Race) -> Iterator[str]:
    """Yield the table of an ablation: mean and standard deviation of each plan's held-out losses, and its time."""
    found = ablation.results(race, run.plan)
    width = max(len(one.label) for one in found)
    seeds = f"{race.repeats} seeds" if race.repeats > 1 else "one seed"
    yield f"  ablation of {len(found)} plans with {seeds}: held-out loss, mean and standard deviation"
    for one in found:
        taken = "" if one.seconds is None else f"  {one.seconds:,.0f} s each"
        done = f"{len(one.losses)} of {one.seeds} trained" if len(one.losses) < one.seeds else ""
        yield f"    {one.label:<{width}}  {one.said:<18}{taken}  {one.out or done}".rstrip()
    yield f"    {ablation.sentence(found)}"


class Progress:
    """What was already printed of the steps of a race's trials, so that each appears once."""

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}

    def is_new(self, run: Run, metric: Metric) -> bool:
        """Return whether a step of the run was not printed already, as one of the trial that won."""
        return run.race is None or run.race.winner is None or metric.step > self._steps.get(run.race.winner, 0)

    def news(self, run: Run, store: Store) -> Iterator[tuple[str, Metric]]:
        """Yield the steps of the trial that trains that are new, each with what the trial is called."""
        race = run.race
        if race is None or race.now is None or race.winner is not None:
            return
        label = race.label(race.now, run.plan)
        for metric in store.trial_metrics(run.id, race.now):
            if metric.step > self._steps.get(race.now, 0):
                self._steps[race.now] = metric.step
                yield label, metric
