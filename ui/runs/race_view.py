"""The race or the ablation that a run begins with: the held-out loss of each plan, and what became of it."""

import streamlit as st

from trainer.runs.contract import Run
from trainer.runs.race import Race
from ui.drawing import error_bars
from ui.drawing.curves import View
from ui.parts import exhibits, notices, text
from ui.runs import address, curve_view
from ui.runs.facts import ablations, racing, run_data

_SECONDS = 2.0
_HEIGHT = 320
_GRID_ALT = "The plans of the ablation with the mean and the standard deviation of their held-out losses"
_BARS = "Bars are one standard deviation over the seeds. All trainings learn and hold out the same rows."
_NO_BARS = "One seed: how much of a difference is chance is not known."
_ALT = "The plans of the race, their held-out losses, and what became of them"


def race(run: Run) -> None:
    """Show the race of a run, again and again while it is held; nothing of a run without one."""
    if run.race is not None:
        live = run.races and not run.is_over
        notices.fragment(_race, run_every=_SECONDS if live else None)(run.id)


def _race(run_id: str) -> None:
    run = run_data.store().run(run_id)
    if run.race is None:
        return
    if run.race.repeats:
        _ablation(run, run.race)
        return
    st.header("Race")
    told = text.plain(racing.sentence(run, run.race))
    others = racing.compared(run)
    st.caption(f"{told} {address.link('Compare these runs', others)}" if len(others) > 1 else told)
    table = racing.table(run, run.race)
    if run.races and not run.is_over:
        st.table(table, border="horizontal", hide_index=True, alt=_ALT)
        # Held-out rows are read a few times only; what moves is the loss of the rows that are learned.
        if series := racing.curves(run, run.race, "loss"):
            curve_view.draw(series, view=View(), quantity="loss", key="race curves")
        return
    if series := racing.curves(run, run.race):
        curve_view.exhibit(series, view=View(), quantity="eval_loss", name="race", height=_HEIGHT)
    exhibits.table(table, name="trials", alt=_ALT, about=racing.about(run))


def _ablation(run: Run, race: Race) -> None:
    """Show what an ablation has found: the means with their deviations as a chart and as a table, both to save."""
    st.header("Ablation")
    st.caption(text.plain(ablations.told(run, race)))
    known = ablations.found(run, race)
    points, about = ablations.points(known, race.varied), racing.about(run)
    if points:
        figure = error_bars.figure(points, across=race.varied[0], up=ablations.LOSS)
        exhibits.chart(figure, ablations.values(known), name="ablation", alt=_GRID_ALT, about=about)
        st.caption(_BARS if race.repeats > 1 else _NO_BARS)
    exhibits.table(ablations.table(known), name="grid", alt=_GRID_ALT, about=about, values=ablations.values(known))
