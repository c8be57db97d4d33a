"""Runs again with some settings changed: a new run, linked to the one that it repeats."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from specs import FinetunePlan, PlanError
from specs.doors.door import setting
from trainer.runs import launcher
from trainer.runs.contract import Run
from trainer.runs.store import Store


def retry(store: Store, run: Run, plan: FinetunePlan, estimate: Mapping[str, Any] | None = None) -> Run:
    """Queue a run of the same data with another plan, start it if the device is free, and return it.

    Called twice, as by a double click, it returns the same run, until that one is over.

    Args:
        store: Where the run is kept.
        run: The run to repeat.
        plan: The changed plan.
        estimate: The prediction for that plan, if any.
    """
    place = dataclasses.replace(run.place, parent_id=run.id, token=_token(store, run, plan))
    again = store.create(plan, run.data, estimate, place=place)
    launcher.launch(store, again.id)
    return store.run(again.id)


def changed(plan: FinetunePlan, texts: Iterable[str]) -> FinetunePlan:
    """Return a plan with fields set from texts such as ``learning_rate=1e-4``; a new ``method`` sets its fields first.

    Raises:
        PlanError: If a text is not such a pair, or the plan refuses the values.
    """
    values = dict(setting("--set", text) for text in texts)
    if not values:
        raise PlanError("--set", "must change at least one field of the plan", None, "Write it as field=value")
    method = values.pop("method", plan.method)
    base = plan if method == plan.method else plan.with_method(str(method))
    return FinetunePlan.from_dict({**base.to_dict(), **values})


def _token(store: Store, run: Run, plan: FinetunePlan) -> str:
    """Return the token of this retry; a new one once the same retry is over."""
    done = sum(1 for other in store.runs() if other.place.parent_id == run.id and other.plan == plan and other.is_over)
    digest = hashlib.sha256(plan.to_json().encode()).hexdigest()
    return f"retry {run.id} {digest} {done}"
