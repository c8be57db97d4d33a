"""The race of learning rates that the Plan page offers beside Start, with what it takes said beforehand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from advisor.speed import Speed, step_speed
from estimator.duration import run as duration
from specs import FinetunePlan, PlanError
from trainer.runs.race import Race, race_of, shown
from trainer.runs.starting import judged, preview
from ui.parts import text
from ui.plan.planning import Request
from ui.runs.facts import run_data

_FACTORS = (0.5, 1, 2, 4)
"""The rates of the race by the plan's own. A choice: a factor of two apart, and more above than below, as 3e-4 loses
least of 1e-4 to 5e-4 in tinker-cookbook's sweep at rank 16 (recipes/chat_sl/results/sft_sweep.md)."""
_REPEATED = (duration.TRAINING, duration.EVALUATING, duration.SAVING)
"""The parts of a run that each plan of a race repeats; the model is loaded once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """A race that can be started."""

    varied: str
    shared: FinetunePlan
    race: Race
    speed: Speed | None


def offer(asked: Request, plan: FinetunePlan, estimate: Mapping[str, Any], *, token: str, disabled: bool) -> str | None:
    """Offer to race the learning rate of a plan; return the id of the run once somebody does, else None.

    Args:
        asked: The request that the plan is for.
        plan: The plan.
        estimate: What is predicted of it.
        token: Makes a double click start one run only.
        disabled: Whether nothing can start now.
    """
    found = _offer(asked, plan)
    if found is None:
        return None
    with st.popover("Race rates", type="tertiary", width="stretch", disabled=disabled):
        rates = ", ".join(f"{change['learning_rate']:g}" for change in found.race.changes)
        st.markdown(f"Trains the plan with learning rates {rates}, and the best of them to its end.")
        st.caption(text.plain(" ".join((*preview(plan, found.shared, found.race), _time(found)))))
        if st.button("Start the race", key="race"):
            return run_data.race(plan, found.varied, asked.data.source, asked.place(token), _foretold(found, estimate))
    return None


def _offer(asked: Request, plan: FinetunePlan) -> _Offer | None:
    """Return the race of a plan; None where its plans could not share a model."""
    rates = [min(1.0, float(f"{factor * plan.learning_rate:.3g}")) for factor in _FACTORS]
    varied = f"learning_rate={','.join(dict.fromkeys(shown(rate) for rate in rates))}"
    shared = judged(plan, asked.data.source, rows=asked.situation.dataset_rows or 0)
    try:
        race = race_of(shared, [varied])
    except PlanError:
        return None
    return _Offer(varied=varied, shared=shared, race=race, speed=step_speed(asked.situation, shared))


def _time(found: _Offer) -> str:
    """Return how long a race takes, as a sentence; empty where it is not known."""
    speed = found.speed
    if speed is None or not speed.parts:
        return ""
    repeated = sum(speed.parts[name] for name in _REPEATED)
    return f"That is about {text.duration(sum(speed.parts.values()) + (found.race.runs_time - 1) * repeated)}."


def _foretold(found: _Offer, estimate: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is predicted of the run: the plan's memory, and the time with the rows held out."""
    return {**estimate, **({"time": found.speed.to_dict()} if found.speed is not None else {})}
