"""The race of learning rates among the other ways to start a plan, with what it takes said beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from advisor.speed import Speed, step_speed
from estimator.duration import run as duration
from specs import FinetunePlan, PlanError
from trainer.runs.ablation import with_modules
from trainer.runs.race import Race, shown
from trainer.runs.starting import judged, preview
from trainer.runs.varied import race_of
from ui.parts import text
from ui.plan.planning import Request
from ui.runs.facts import run_data

_FACTORS = (0.5, 1, 2, 4)
"""The rates of the race by the plan's own. A choice: a factor of two apart, and more above than below, as 3e-4 loses
least of 1e-4 to 5e-4 in tinker-cookbook's sweep at rank 16 (recipes/chat_sl/results/sft_sweep.md)."""
_REPEATED = (duration.TRAINING, duration.EVALUATING, duration.SAVING)
"""The parts of a run that each plan of a race repeats; the model is loaded once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A race or an ablation that can be started."""

    varied: tuple[str, ...]
    shared: FinetunePlan
    race: Race
    speed: Speed | None

    @property
    def time(self) -> str:
        """How long it takes, as a sentence; empty where it is not known."""
        if self.speed is None or not self.speed.parts:
            return ""
        repeated = sum(self.speed.parts[name] for name in _REPEATED)
        return f"That is about {text.duration(sum(self.speed.parts.values()) + (self.race.runs_time - 1) * repeated)}."

    def started(
        self, asked: Request, plan: FinetunePlan, estimate: Mapping[str, Any], *, token: str, label: str, key: str
    ) -> str | None:
        """Show what it takes and a button; return the id of the run once it is clicked, else None."""
        st.caption(text.plain(" ".join((*preview(plan, self.shared, self.race), self.time))))
        if not st.button(label, key=key):
            return None
        foretold = {**estimate, **({"time": self.speed.to_dict()} if self.speed is not None else {})}
        source, place, repeats = asked.data.source, asked.place(token), self.race.repeats
        return run_data.race(plan, self.varied, source, place, foretold, repeats=repeats)


def offer(asked: Request, plan: FinetunePlan, estimate: Mapping[str, Any], *, token: str) -> str | None:
    """Offer to race the learning rate of a plan; return the id of the run once somebody does, else None.

    Args:
        asked: The request that the plan is for.
        plan: The plan.
        estimate: What is predicted of it.
        token: Makes a double click start one run only.
    """
    factors = [min(1.0, float(f"{factor * plan.learning_rate:.3g}")) for factor in _FACTORS]
    try:
        found = offered(asked, plan, [f"learning_rate={','.join(dict.fromkeys(map(shown, factors)))}"])
    except PlanError as error:
        st.caption(text.plain(str(error)))
        return None
    rates = ", ".join(f"{change['learning_rate']:g}" for change in found.race.changes)
    st.markdown(f"Trains the plan with learning rates {rates}, and the best of them to its end.")
    return found.started(asked, plan, estimate, token=token, label="Start the race", key="race")


def offered(asked: Request, plan: FinetunePlan, varied: Sequence[str], *, repeats: int = 0) -> Offer:
    """Return the race, or the ablation with so many seeds, of a plan.

    Raises:
        PlanError: If its plans could not share a model, or there is nothing to compare.
    """
    shared = judged(plan, asked.data.source, rows=asked.situation.dataset_rows or 0)
    race = race_of(shared, [*with_modules(varied, asked.situation.model.linear_modules)], repeats=repeats)
    return Offer(varied=(*varied,), shared=shared, race=race, speed=step_speed(asked.situation, shared))
