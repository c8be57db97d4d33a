"""An ablation as the page shows it: the means of plans with their deviations, as points and tables. Draws nothing."""

from collections.abc import Sequence

from trainer.runs.ablation import Result, results, sentence
from trainer.runs.contract import Run
from trainer.runs.race import Race, percent, shown
from ui.drawing.error_bars import Point
from ui.parts import text
from ui.runs.facts.course import course

LOSS = "held-out loss"


def found(run: Run, race: Race) -> tuple[Result, ...]:
    """Return what the ablation of a run has found so far."""
    return results(race, run.plan)


def told(run: Run, race: Race) -> str:
    """Return how far an ablation is, or what it says."""
    known = sentence(found(run, race)) if race.losses else ""
    if race.winner is not None:
        return f"{known} The best plan is what this run has trained."
    held = course(run)
    return f"{race.foretold} {percent(round(held.done if held else race.done, 2))} is done. {known}".strip()


def points(known: Sequence[Result], varied: Sequence[str]) -> list[Point]:
    """Return the means over the values of the first field, a series for each combination of the others."""
    first, *others = varied
    return [
        Point(
            at=shown(one.values[first]),
            series=", ".join(f"{name} {shown(one.values[name])}" for name in others),
            mean=one.mean,
            deviation=one.deviation,
        )
        for one in known
        if one.mean is not None
    ]


def table(known: Sequence[Result]) -> dict[str, list[str]]:
    """Return the plans of an ablation with the mean and the deviation of their losses, and how long each took."""
    return {
        **{name: [text.plain(shown(one.values[name])) for one in known] for name in known[0].values},
        "Held-out loss": [one.said for one in known],
        "Trained": [f"{len(one.losses)} of {one.seeds}" for one in known],
        "Time of each": ["" if one.seconds is None else text.duration(one.seconds) for one in known],
        "Remark": [text.plain(one.out) for one in known],
    }


def values(known: Sequence[Result]) -> dict[str, list[str | float | None]]:
    """Return the same as plain numbers and words, with the loss of every seed."""
    seeds = max(one.seeds for one in known)
    return {
        **{name: [shown(one.values[name]) for one in known] for name in known[0].values},
        "mean": [one.mean for one in known],
        "standard_deviation": [one.deviation for one in known],
        **{
            f"loss_{number + 1}": [one.losses[number] if len(one.losses) > number else None for one in known]
            for number in range(seeds)
        },
        "seconds_each": [one.seconds for one in known],
        "remark": [one.out for one in known],
    }
