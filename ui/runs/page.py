"""Runs: list all of them, watch one, compare several."""

import streamlit as st

from ui.parts import given, notices, text
from ui.runs import address, comparison_view, list_view, naming_view, run_view, space_view
from ui.runs.facts import run_data

with notices.errors():
    if rebuilt := run_data.store().rebuilt:
        st.warning(text.plain(rebuilt), icon=":material/healing:")
    chosen = run_data.known(address.named())
    for run_id in address.named():
        if run_id not in {run.id for run in chosen}:
            given.refuse(address.RUN, run_id, "must be the id of a run that is kept here")
    runs = () if chosen else run_data.store().runs()
    if len(chosen) == 1:
        run_view.one(chosen[0])
    elif chosen:
        comparison_view.comparison(chosen)
    elif runs:
        list_view.listing(runs)
    else:
        naming_view.deleted_notice()
        naming_view.trash()
        st.info("No runs yet. Choose a model on the Plan page and start one.", icon=":material/rocket_launch:")
        st.page_link("ui/plan/page.py", label="Plan a run", icon=":material/tune:")
        space_view.space_taken()
