"""What stays in sight while a plan is edited: the verdict, its bar against the card, and what to do next."""

import secrets
from collections.abc import Mapping
from typing import Any

import streamlit as st

from advisor import ByRule, Recommendation
from estimator.estimate import MemoryEstimate
from lorafit.predicting import foretold
from specs import METHODS, FinetunePlan
from trainer.runs.contract import UNKNOWN
from ui.drawing.bars import Bar, memory_bars
from ui.parts import given, text
from ui.plan import other_ways, plan_view, planning
from ui.plan.planning import Request
from ui.runs.facts import run_data

# Streamlit has no container that stays in sight at the top. Its header is 3.75rem high; light-dark follows the theme,
# since Streamlit sets color-scheme on the app. On a phone it lies at the bottom: it is the first of
# what is redrawn alone, and cannot stick above that. What opens there gets its place while it is empty: with the height
# that it will have, it opens upwards.
_STAYS = """<style>
div:has(> .st-key-strip) { position: sticky; top: 3.5rem; bottom: 0; z-index: 20; }
.st-key-strip { background: light-dark(#FDFDFC, #15161B); border-bottom: 1px solid light-dark(#DBDAD5, #363943);
                padding: 0.4rem 0 0.6rem; }
@media (max-width: 640px) {
  div:has(> .st-key-strip) { position: fixed; top: auto; left: 0; right: 0; }
  .st-key-strip { padding: 0.4rem 1rem 0.6rem; border-top: 1px solid light-dark(#DBDAD5, #363943); }
  [data-testid="stMainBlockContainer"] { padding-bottom: 16rem; }
  [data-testid="stPopoverBody"]:not(:has([data-testid="stElementContainer"])) { min-height: 24rem; }
}
</style>"""


_ACCEPTED = (
    "The plan takes as little memory as the rules allow, but nobody computed how much. "
    "The run shows what its first steps take."
)


def show(asked: Request, result: Recommendation, estimate: MemoryEstimate) -> None:
    """Show the strip, and below it, out of the way, the details and why nothing can start."""
    refused = given.obstacle(asked.situation.pins)
    obstacle = refused or planning.obstacle(asked, result.plan, estimate)
    with st.container(key="strip", gap="xxsmall"):
        left, right = st.columns([4, 1], vertical_alignment="center")
        with left:
            plan_view.verdict(asked, result, estimate)
        with right, st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="actions"):
            told = foretold(estimate, result.speed)
            _action(asked, result.plan, told, disabled=obstacle is not None)
            anywhere = refused or planning.obstacle_anywhere(asked, estimate)
            _go(other_ways.offer(asked, result.plan, told, token=_ticket(), here=obstacle, anywhere=anywhere))
        bar = Bar(label="this plan", parts=estimate.components)
        alt, capacity = plan_view.memory_alt(estimate), estimate.capacity_bytes
        st.html(memory_bars([bar], alt=alt, capacity_bytes=capacity, band=estimate.error_band, legend=False))
    plan_view.parts(estimate)
    st.caption(plan_view.details(asked, result, estimate))
    _notes(asked, obstacle)


def unpriced(asked: Request, result: ByRule) -> None:
    """Show the strip of a plan whose memory is unknown; it can start once that is accepted."""
    obstacle = given.obstacle(asked.situation.pins) or planning.obstacle(asked, result.plan, None)
    with st.container(key="strip", gap="xxsmall"):
        left, right = st.columns([5, 1], vertical_alignment="center")
        with left:
            label = text.plain(METHODS[result.plan.method].label)
            st.subheader(f":orange[:material/help: Memory unknown] with {label}", anchor=False)
            accepted = st.checkbox("Start although it may run out of memory", key="accept_unknown")
            st.caption(_ACCEPTED)
        with right:
            _action(asked, result.plan, {UNKNOWN: result.why}, disabled=obstacle is not None or not accepted)
    st.caption(text.plain(result.memory))
    _notes(asked, obstacle)


def _notes(asked: Request, obstacle: str | None) -> None:
    """Say which model a typed part of a name stands for, why nothing can start, and what the data decides."""
    typed, name = st.session_state.get("model"), asked.situation.model.name
    meant = f"The model is {name}." if typed and typed.strip() != name else None
    for words in filter(None, (meant, obstacle, planning.task_note(asked))):
        st.caption(text.plain(words))


def stay() -> None:
    """Keep the strip in sight while the page is scrolled."""
    st.html(_STAYS)


def devices_needed(asked: Request, result: Recommendation, estimate: MemoryEstimate) -> None:
    """Say how many devices a plan that does not fit would need; comes last, since it may need a trace."""
    if estimate.verdict == "does not fit" and not asked.situation.gpu.is_cpu:
        plan_view.devices_needed(asked, result, planning.devices_needed(asked.situation, result.plan.method))


def _action(asked: Request, plan: FinetunePlan, estimate: Mapping[str, Any], *, disabled: bool) -> None:
    """Show the one thing to do: start the run, or export the plan where the device is elsewhere."""
    if asked.device is None:
        st.button(text.on_accent("Export"), key="go", type="primary", width="stretch", on_click=_open_export)
        return
    label = "Start" if disabled else text.on_accent("Start")
    if st.button(label, key="start", type="primary", width="stretch", disabled=disabled):
        _go(run_data.start(plan, asked.data.source, asked.place(_ticket()), estimate))


def _ticket() -> str:
    """Return what makes a double click start one run only."""
    return str(st.session_state.setdefault("ticket", secrets.token_hex(8)))


def _go(run_id: str | None) -> None:
    """Show a run that was just started."""
    if run_id is not None:
        del st.session_state["ticket"]
        st.switch_page("ui/runs/page.py", query_params={"run": run_id})


def _open_export() -> None:
    st.session_state["view"] = "Export"
