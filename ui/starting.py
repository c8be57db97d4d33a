"""The head of the plan page: the verdict, and the button that starts the run."""

import secrets

import streamlit as st

from advisor import Recommendation
from estimator.estimate import MemoryEstimate
from ui import planning, running, shows, text
from ui.planning import Request


def headline(asked: Request, result: Recommendation, estimate: MemoryEstimate) -> None:
    """Show the verdict, and the start beside it."""
    words, button = st.columns([3, 1], vertical_alignment="center")
    with words:
        shows.verdict(asked, result, estimate)
    with button:
        start(asked, result, estimate)


def start(asked: Request, result: Recommendation, estimate: MemoryEstimate) -> None:
    """Offer the start, or say why there is none."""
    obstacle = planning.obstacle(asked, estimate)
    if obstacle:
        st.button("Start", key="start", disabled=True, width="stretch", help=obstacle)
        return
    token = st.session_state.setdefault("ticket", secrets.token_hex(8))
    if st.button(text.on_accent("Start"), key="start", type="primary", width="stretch"):
        run_id = running.start(result.plan, asked.data.source, asked.place(token), estimate.to_dict())
        del st.session_state["ticket"]
        st.switch_page("ui/pages/runs.py", query_params={"run": run_id})
