"""The head of the plan page: the verdict, and the button that starts the run."""

import secrets

import streamlit as st

from advisor import Recommendation
from estimator.estimate import MemoryEstimate
from ui.parts import given, text
from ui.plan import data_view, plan_view, planning
from ui.plan.planning import Request
from ui.runs import run_data


def headline(asked: Request, result: Recommendation, estimate: MemoryEstimate) -> None:
    """Show the verdict with the start button beside it, and why the button is disabled."""
    obstacle = given.obstacle() or planning.obstacle(asked, result.plan, estimate)
    left, right = st.columns([3, 1], vertical_alignment="center")
    with left:
        plan_view.verdict(asked, result, estimate)
    with right:
        start(asked, result, estimate, disabled=obstacle is not None)
    for words in filter(None, (obstacle, planning.task_note(asked))):
        st.caption(text.plain(words))
    if asked.data.running is not None:
        data_view.reading(asked.data.running)


def devices_needed(asked: Request, result: Recommendation, estimate: MemoryEstimate) -> None:
    """Say how many devices a plan that does not fit would need; comes last, since it may need a trace."""
    if estimate.verdict == "does not fit" and not asked.situation.gpu.is_cpu:
        plan_view.devices_needed(asked, result, planning.devices_needed(asked.situation, result.plan.method))


def start(asked: Request, result: Recommendation, estimate: MemoryEstimate, *, disabled: bool) -> None:
    """Show the start button; a click queues the run and opens its page."""
    token = st.session_state.setdefault("ticket", secrets.token_hex(8))
    label = "Start" if disabled else text.on_accent("Start")
    if st.button(label, key="start", type="primary", width="stretch", disabled=disabled):
        run_id = run_data.start(result.plan, asked.data.source, asked.place(token), estimate.to_dict())
        del st.session_state["ticket"]
        st.switch_page("ui/runs/page.py", query_params={"run": run_id})
