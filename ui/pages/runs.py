"""Runs: watch one, compare several, find them all again."""

import streamlit as st

from ui import historyviews, notices, opening, running, runviews

with notices.errors():
    chosen = running.known(opening.named())
    runs = () if chosen else running.store().runs()
    if len(chosen) == 1:
        runviews.one(chosen[0])
    elif chosen:
        historyviews.comparison(chosen)
    elif runs:
        historyviews.history(runs)
    else:
        st.info("No run yet. Choose a model on the Plan page and start one.", icon=":material/rocket_launch:")
        st.page_link("ui/pages/plan.py", label="Plan a run", icon=":material/tune:")
