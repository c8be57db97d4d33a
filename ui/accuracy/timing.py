"""Predicted against measured time: of the published runs in ``assets``, and of runs on this machine."""

import functools
from collections.abc import Sequence

import streamlit as st

from catalog import gpus
from estimator.accuracy import timing
from estimator.duration import fitting, published
from estimator.duration.published import TimedRun
from specs import paths
from specs.units import with_digits
from trainer.runs.contract import Run
from ui.accuracy import predictions
from ui.parts import exhibits, text
from ui.runs.facts import titles

HOW = f"""
A step's operations are counted by kind (matrix products, attention, norms, adapters, expanding weights, loss,
optimizer) and timed by the speed of the device. On the machine that runs LoRAFit that speed is measured
(`python -m estimator calibrate`). For all other cards it is the published peak times shares that are fitted to the
published runs below: their mean error is {published.ERROR_WITH_RUNS:.0%}, and {published.ERROR_LEFT_OUT:.0%} on a card
whose own runs the fit has not seen.
"""


@functools.cache
def runs() -> tuple[TimedRun, ...]:
    """Return every published run with its time."""
    rows = (paths.assets() / "speed.csv").read_text(encoding="utf-8")
    return timing.timed_runs(rows, model=predictions.found, gpu=gpus.find)


def show(own: Sequence[Run]) -> None:
    """Show how the time is found, and predictions beside measurements."""
    st.markdown(HOW)
    st.markdown(
        "**Runs on this machine**: seconds of a step, without the first; on a CPU its processor time, whatever else ran"
    )
    _own([run for run in own if pair(run)])
    st.markdown("**Published runs**: seconds of a forward and backward pass")
    _published(runs())


def _published(found: Sequence[TimedRun]) -> None:
    predicted = [run.predicted(published.SHARES, factor=published.FACTORS[run.gpu.name]) for run in found]
    exhibits.table(
        {
            "Run": [text.plain(timing.description(run)) for run in found],
            "Device": [text.plain(run.gpu.name) for run in found],
            "Measured": [f"{with_digits(run.seconds, 3)} s" for run in found],
            "Predicted": [f"{with_digits(seconds, 3)} s" for seconds in predicted],
            "Error": [f"{seconds / run.seconds - 1:+z.0%}" for run, seconds in zip(found, predicted, strict=True)],
            "Source": [predictions.linked(run.source) for run in found],
        },
        name="timed",
        alt=f"{len(found)} published runs with their time; mean error "
        f"{sum(map(fitting.error_of, found, predicted)) / len(found):.0%}",
    )


def _own(measured: Sequence[Run]) -> None:
    if not measured:
        st.caption("No run on this machine has been timed yet. Each run records its steps beside the forecast.")
        return
    pairs = [pair(run) or (0.0, 1.0) for run in measured]
    exhibits.table(
        {
            "Run": [text.plain(f"{titles.title(run)}, {run.id}") for run in measured],
            "Measured": [f"{with_digits(taken, 3)} s" for _, taken in pairs],
            "Predicted": [f"{with_digits(forecast, 3)} s" for forecast, _ in pairs],
            "Error": [f"{forecast / taken - 1:+z.0%}" for forecast, taken in pairs],
        },
        name="own_times",
        alt="Every run on this machine with the time of its steps and the forecast",
    )


def pair(run: Run) -> tuple[float, float] | None:
    """Return forecast and measured seconds of a run's steps; None where one is unknown."""
    forecast = (run.estimate or {}).get("time", {}).get("seconds_per_step")
    times = run.measured.get("time", {})
    taken = (times.get("worked_per_step") if run.place.device == "cpu" else None) or times.get("seconds_per_step")
    return (float(forecast), float(taken)) if forecast and taken else None
