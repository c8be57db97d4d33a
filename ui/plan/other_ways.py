"""What can be done with a plan besides one run here: a race of rates, an ablation, a run on another machine."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import streamlit as st

from specs import FinetunePlan
from ui.plan import ablation_form, elsewhere_form, race_form
from ui.plan.planning import Request


def offer(
    asked: Request,
    plan: FinetunePlan,
    estimate: Mapping[str, Any],
    *,
    token: str,
    here: str | None,
    anywhere: str | None,
) -> str | None:
    """Offer the other ways; return the id of the run once somebody starts one, else None.

    Nothing of them is computed or drawn while they are folded away.

    Args:
        asked: The request that the plan is for.
        plan: The plan.
        estimate: What is predicted of it.
        token: Makes a double click start one run only.
        here: Why it cannot start on this machine, or None.
        anywhere: Why it cannot be trained on any machine, or None.
    """
    ways: dict[str, Callable[..., str | None]] = {}
    if here is None:
        ways["Race rates"] = race_form.offer
        if ablation_form.is_possible(plan):
            ways["Ablation"] = ablation_form.offer
    ways["Elsewhere"] = partial(elsewhere_form.offer, obstacle=anywhere)
    first, *others = ways
    with st.popover("Other ways" if others else first, type="tertiary", key="ways", on_change="rerun") as opened:
        if not opened.open:
            return None
        way: str | None = first
        if others:
            way = st.segmented_control("Way to start", list(ways), default=first, required=True, key="way")
        return ways[way if way in ways else first](asked, plan, estimate, token=token)
