"""Where a run stands, in figures: its state, its losses, its speed, its time. Draws nothing."""

import time
from collections.abc import Mapping, Sequence
from typing import Literal

from specs import TASK_TYPES
from specs.units import with_digits
from trainer.runs.contract import HEARTBEAT_SECONDS, Metric, Phase, Run, State
from trainer.runs.diagnosis import perplexity
from trainer.runs.race import percent
from ui.parts import text
from ui.runs.facts import quantities, run_data, wording
from ui.runs.facts.course import course

_JUST_NOW_SECONDS = 2.5 * HEARTBEAT_SECONDS
"""A worker that sends heartbeats on time is never silent for longer."""

Color = Literal["gray", "blue", "orange", "green", "red"]

STATE_COLORS: Mapping[State, Color] = {
    State.QUEUED: "gray",
    State.PREPARING: "blue",
    State.RUNNING: "blue",
    State.STOPPING: "orange",
    State.STOPPED: "gray",
    State.FINISHED: "green",
    State.FAILED: "red",
    State.LOST: "red",
}


def last_update(run: Run, now: float | None = None) -> str:
    """Return how long ago the worker last sent a heartbeat."""
    if run.heartbeat_at is None:
        return "not started yet"
    seconds = (now or time.time()) - run.heartbeat_at
    return "updated just now" if seconds < _JUST_NOW_SECONDS else f"updated {text.duration(seconds)} ago"


def progress(run: Run) -> float:
    """Return the share of steps done; during a race, of the race's."""
    if run.race is not None and run.races:
        held = course(run)
        return held.done if held else run.race.done
    return min(1.0, run.step / run.total_steps) if run.total_steps else 0.0


def activity(run: Run) -> str:
    """Return what the run is doing now, as a phrase."""
    if run.parts:
        return f"combines {len(run.parts)} adapters"
    if run.state is State.QUEUED:
        return "waiting for the device"
    if run.race is not None and run.races and run.is_active:
        return f"{run.phase.words}, {percent(round(progress(run), 2))} of the race"
    steps = f"step {run.step:,} of {run.total_steps:,}" if run.total_steps else "before the first step"
    return f"{run.phase.words}, {steps}" if run.is_active else steps


def seconds_taken(run: Run, now: float | None = None) -> float | None:
    """Return how long the run has taken so far, or took in total; pauses between its workers do not count."""
    if run.started_at is None:
        return None
    if run.attempt > 1 or (run.is_over and run.finished_at is None):
        return run_data.store().worked_seconds(run.id)
    return (run.finished_at or now or time.time()) - run.started_at


def figures(run: Run, points: Sequence[Metric]) -> list[tuple[str, str, str]]:
    """Return the run's key figures: label, value, meaning; while a race is held, of the plan that trains now."""
    held = course(run)
    points = held.points if held else points
    shown = [
        ("Loss", "loss", ".3f", wording.of(run.plan).loss),
        ("Eval loss", "eval_loss", ".3f", "The same on held-out rows."),
    ]
    cells = [
        (label, "–" if (value := quantities.newest(points, quantity)) is None else format(value, form), meaning)
        for label, quantity, form, meaning in shown
        if quantity != "eval_loss" or quantities.newest(points, quantity) is not None
    ]
    held_out = quantities.newest(points, "eval_loss")
    if run.has_perplexity and held_out is not None:
        cells.append(("Perplexity", with_digits(perplexity(held_out), 4), "exp of the loss on held-out rows."))
    measured = run.measured.get("evaluation", {})
    known = TASK_TYPES[run.plan.task_type].measures
    cells += [(one.label, one.shown(measured[one.name]), one.meaning) for one in known if one.name in measured]
    trains = run.state is State.RUNNING and (run.phase is Phase.TRAINING or held is not None)
    cells.append(_speed(run, points, trains=trains))
    if run.is_over:
        taken = seconds_taken(run)
        cells.append(
            ("Time", text.duration(taken) if taken else "–", "From the first step to the end, without pauses.")
        )
    else:
        is_last = run.total_steps is not None and run.step >= run.total_steps
        eta = quantities.newest(points, "eta_seconds") if trains and not is_last else None
        eta = held.seconds_left if held else eta
        waits = "measuring" if trains and not is_last else "–"
        meaning = "Estimated from the speed of recent steps, once there are a few; the first one takes longer."
        cells.append(("Time left", text.duration(eta) if eta is not None else waits, meaning))
    return cells


def _speed(run: Run, points: Sequence[Metric], *, trains: bool) -> tuple[str, str, str]:
    """Return the speed of the last step while a run trains, and of all steps once it is over, as a figure."""
    found = [point.tokens_per_second for point in points if point.tokens_per_second]
    meaning = "Tokens trained on per second, without padding."
    if run.is_over:
        shown = f"{len(found) / sum(1 / speed for speed in found):,.0f}" if found else "–"
        return "Mean tokens/s", shown, f"{meaning} The chart shows each step."
    return "Tokens/s", f"{found[-1]:,.0f}" if found and trains else "–", meaning
