"""A race as the page shows it: the curve of each plan, what became of it, and which runs to compare. Draws nothing."""

from collections.abc import Mapping, Sequence

from trainer.runs.contract import DROPPED, Metric, Run
from trainer.runs.race import Race, percent
from ui.drawing.curves import Curve
from ui.parts import text
from ui.runs.facts import quantities, run_data, tables
from ui.runs.facts.course import course


def sentence(run: Run, race: Race) -> str:
    """Return how far a race is, or how it ended."""
    if race.winner is not None:
        won = f"{race.label(race.winner, run.plan)} won and is what this run trains."
        return f"{len(race.changes)} plans took part; {won} {race.hint}".strip()
    held = course(run)
    return f"{race.foretold} {percent(round(held.done if held else race.done, 2))} is done."


def curves(run: Run, race: Race, quantity: str = "eval_loss") -> list[Curve]:
    """Return the loss on held-out rows, or another quantity, of each plan over its steps, as far as there is any."""
    found = [
        quantities.curve(points, quantity, race.label(trial, run.plan))
        for trial, points in enumerate(_points(run, race))
    ]
    return [curve for curve in found if curve.steps]


def table(run: Run, race: Race) -> dict[str, list[str]]:
    """Return the plans of a race with their held-out losses where they were compared, and what became of them."""
    trials = range(len(race.changes))
    losses = {
        f"Held-out loss after {percent(share)}": [
            f"{found[rung]:.4f}" if len(found := race.losses.get(trial, ())) > rung else "" for trial in trials
        ]
        for rung, share in enumerate(race.rungs)
    }
    outcomes = [text.plain(race.outcome(trial, trains=run.is_active)) for trial in trials]
    if (held := course(run)) and held.points and outcomes[held.trial] == "training":
        outcomes[held.trial] = f"training, step {held.points[-1].step:,}"
    return {"Plan": [text.plain(race.label(trial, run.plan)) for trial in trials], **losses, "Outcome": outcomes}


def compared(run: Run) -> list[str]:
    """Return the run of a race and those of the plans that were dropped, where they are still there."""
    return [run.id, *(other.id for other in _dropped(run, run.race).values())] if run.race else []


def about(run: Run) -> Mapping[str, str]:
    """Return what the table of a race is about."""
    return tables.about(run)


def _points(run: Run, race: Race) -> list[Sequence[Metric]]:
    """Return what each trial measured: in its own folder, or once the race is decided, in the run that it became."""
    store, trials = run_data.store(), range(len(race.changes))
    if race.winner is None:
        return [store.trial_metrics(run.id, trial) for trial in trials]
    kept = {race.winner: run, **_dropped(run, race)}
    return [run_data.metrics(kept[trial]) if trial in kept else () for trial in trials]


def _dropped(run: Run, race: Race | None) -> dict[int, Run]:
    """Return the runs that the other plans of a race became, by their trials."""
    others = {other.place.token: other for other in run_data.store().runs() if other.left_race}
    names = {trial: f"{DROPPED}{run.id} {trial}" for trial in range(len(race.changes) if race else 0)}
    return {trial: others[name] for trial, name in names.items() if name in others}
