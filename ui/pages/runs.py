"""Runs: watch one, compare several, find them all again."""

import streamlit as st

from ui import notices, running, runviews

with notices.errors():
    runs = {run.id: run for run in running.store().runs()}
    chosen = runviews.chosen(runs)
    if not runs:
        st.info("No run yet. Choose a model on the Plan page and start one.", icon=":material/rocket_launch:")
        st.page_link("ui/pages/plan.py", label="Plan a run", icon=":material/tune:")
    elif not chosen:
        runviews.history(list(runs.values()))
    elif len(chosen) == 1:
        runviews.one(runs[chosen[0]])
    else:
        runviews.comparison([runs[run_id] for run_id in chosen])
