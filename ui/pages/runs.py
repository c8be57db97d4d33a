"""Runs: watch one, compare several, find them all again."""

import streamlit as st

from ui import notices, running, runviews

with notices.errors():
    chosen = running.known(st.query_params.get_all(runviews.RUN))
    runs = () if chosen else running.store().runs()
    if len(chosen) == 1:
        runviews.one(chosen[0])
    elif chosen:
        runviews.comparison(chosen)
    elif runs:
        runviews.history(runs)
    else:
        st.info("No run yet. Choose a model on the Plan page and start one.", icon=":material/rocket_launch:")
        st.page_link("ui/pages/plan.py", label="Plan a run", icon=":material/tune:")
