"""The race that a run begins with: the held-out loss of each plan, which was dropped when, and which won."""

import streamlit as st

from trainer.runs.contract import Run
from ui.drawing.curves import View
from ui.parts import exhibits, notices, text
from ui.runs import address, curve_view
from ui.runs.facts import racing, run_data

_SECONDS = 2.0
_HEIGHT = 320
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
