"""The ablation among the other ways to start a plan: ranks and sets of modules as a grid, with several seeds."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from specs import METHODS, FinetunePlan, PlanError
from trainer.runs.ablation import MOST_SEEDS, RANKS, SEEDS, sets_of
from ui.parts import text
from ui.plan.planning import Request
from ui.plan.race_form import offered

_USUAL_RANKS = (4, 16, 64)
_USUAL_SETS = ("qv", "all")
_MEANING = "Trains every combination to its end with each seed, and compares the means. None is dropped."


def is_possible(plan: FinetunePlan) -> bool:
    """Return whether a plan has what an ablation compares: an adapter with a rank, on one device."""
    return METHODS[plan.method].has_rank and plan.num_gpus == 1 and plan.keeps_base


def offer(asked: Request, plan: FinetunePlan, estimate: Mapping[str, Any], *, token: str) -> str | None:
    """Offer an ablation of a plan; return the id of the run once somebody starts it, else None.

    Args:
        asked: The request that the plan is for.
        plan: The plan.
        estimate: What is predicted of it.
        token: Makes a double click start one run only.
    """
    sets = sets_of(asked.situation.model.linear_modules)
    st.markdown(_MEANING)
    ranks = st.pills("r", RANKS, selection_mode="multi", default=_USUAL_RANKS, key="ablation_r")
    usual = [name for name in _USUAL_SETS if name in sets]
    kept = st.pills("target_modules", sets, selection_mode="multi", default=usual, key="ablation_modules")
    seeds = int(st.number_input("Seeds", 1, MOST_SEEDS, SEEDS, key="ablation_seeds"))
    chosen = {"r": [*map(str, sorted(ranks))], "target_modules": [name for name in sets if name in kept]}
    varied = [f"{name}={','.join(values)}" for name, values in chosen.items() if values]
    try:
        found = offered(asked, plan, varied, repeats=seeds)
    except PlanError as error:
        st.caption(text.plain(str(error)))
        return None
    return found.started(asked, plan, estimate, token=token, label="Start the ablation", key="ablation")
