"""The offer to train the plan on another machine, for which it is named or written as an address."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from specs import FinetunePlan, LorafitError, RunError
from trainer.runs.contract import Place
from ui.parts import text
from ui.plan.planning import Request
from ui.runs.facts import elsewhere, run_data

_ABOUT = (
    "Trains on a machine that ssh reaches from this one: its packages are installed once, the curves are drawn here, "
    "and the result comes back. `python -m trainer place add NAME ssh://host` gives it a name."
)


def offer(
    asked: Request, plan: FinetunePlan, estimate: Mapping[str, Any], *, token: str, obstacle: str | None
) -> str | None:
    """Offer to train a plan elsewhere; return the id of the run once somebody does, else None.

    Args:
        asked: The request that the plan is for.
        plan: The plan.
        estimate: What is predicted of it.
        token: Makes a double click start one run only.
        obstacle: Why it cannot be trained anywhere.
    """
    known, unread = _named()
    obstacle = obstacle or unread
    where = st.selectbox(
        "Where",
        known,
        index=0 if known else None,
        placeholder="ssh://host",
        accept_new_options=True,
        key="where",
        help="The name that you gave the machine, or its address: ssh://user@host:port/folder, slurm:///folder, ray://head:8265/folder.",
    )
    st.caption(text.plain(obstacle) if obstacle else _ABOUT)
    looks, starts = st.columns(2)
    ready = bool(where) and obstacle is None
    if looks.button("Check", key="check place", disabled=not where, width="stretch"):
        _tell(where or "")
    if starts.button("Start there", key="start there", disabled=not ready, width="stretch"):
        return _started(asked, plan, estimate, where=where or "", token=token)
    return None


def _named() -> tuple[list[str], str | None]:
    """Return the places that have names, and why they cannot be read."""
    try:
        return elsewhere.names(), None
    except LorafitError as error:
        return [], str(error)


def _tell(where: str) -> None:
    """Say whether a place can be used."""
    try:
        st.success(text.plain(elsewhere.ground(where).sentence))
    except LorafitError as error:
        st.error(text.plain(str(error)))


def _started(asked: Request, plan: FinetunePlan, estimate: Mapping[str, Any], *, where: str, token: str) -> str | None:
    try:
        device = elsewhere.device(where, asked.situation.gpu, plan.num_gpus)
        place = Place(device=device, model_path=asked.place("").model_path, token=f"{token} {where}")
        return run_data.start(plan, asked.data.source, place, estimate)
    except RunError as error:
        st.error(text.plain(str(error)))
        return None
