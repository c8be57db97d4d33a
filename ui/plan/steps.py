"""What the next step of a setting costs, and what an override moves along. Draws nothing."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from advisor.speed import relative_time
from estimator.estimate import Verdict
from specs import METHODS, FinetunePlan, LorafitError
from specs.fields import Sharding
from specs.sharing import UNSHARDED
from ui.plan.planning import Request, recommendation
from ui.plan.upgrades import BETTER, changed

_LARGEST_RANK = 256
_EIGHT_BIT = "paged_adamw_8bit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The same plan with one field changed."""

    field: str
    after: Any
    more_bytes: int | None
    """How much more memory is used; negative if less; None if that takes a trace first."""
    more_time: float | None
    """Change of the time for the same data, as a share; None if unknown."""
    verdict: Verdict | None
    """Whether the changed plan fits; None if that takes a trace first."""
    plan: FinetunePlan
    """The changed plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One setting that the person fixed, compared with the recommendation without it."""

    field: str
    recommended: Any
    """The value without it; None if the field then does not apply."""
    accepted: bool
    """Whether the evidence finds the person's value acceptable."""
    more_bytes: int | None
    """How much more memory the plan uses than the one that undoing this leads to; None if that is not priced."""
    by_itself: int | None
    """How much more that plan would use with this one setting changed, as its next step says; None if not priced."""
    moved: tuple[tuple[str, Any, Any], ...]
    """Other fields that follow from it, with their values without it and with it."""


def next_step(asked: Request, plan: FinetunePlan, field: str) -> Step | None:
    """Return the next value that costs or saves memory or time; None where there is none."""
    after = _NEXT[field](plan) if field in _NEXT else None
    if after is None or after == getattr(plan, field):
        return None
    try:
        larger = changed(asked, plan, field, after)
        estimate = asked.price(larger) if asked.is_warm(larger) else None
    except LorafitError:
        return None
    time = relative_time(asked.situation, larger, plan)
    if field == "num_train_epochs":
        time = after / plan.num_train_epochs
    return Step(
        field=field,
        after=after,
        more_bytes=estimate.used_bytes - asked.price(plan).used_bytes if estimate else None,
        more_time=None if time is None else time - 1,
        verdict=estimate.verdict if estimate else None,
        plan=larger,
    )


def ways_to_share(asked: Request, plan: FinetunePlan) -> Mapping[str, int | None]:
    """Return what a plan uses on each device if they hold copies, and if they hold parts; None if not traced yet."""
    return {way: _used(asked, changed(asked, plan, "sharding", way)) for way in _OTHER_WAY}


def _used(asked: Request, plan: FinetunePlan) -> int | None:
    try:
        return asked.price(plan).used_bytes if asked.is_warm(plan) else None
    except LorafitError:
        return None


def overrides(asked: Request, plan: FinetunePlan) -> Mapping[str, Override]:
    """Return what each fixed setting of a plan changes, by field."""
    return {field: _override(asked, plan, field) for field in asked.situation.pins}


def _override(asked: Request, plan: FinetunePlan, field: str) -> Override:
    pins = {name: value for name, value in asked.situation.pins.items() if name != field}
    free = dataclasses.replace(asked, situation=dataclasses.replace(asked.situation, pins=pins))
    try:
        wished = recommendation(free)
    except LorafitError:  # what else is fixed cannot be without this one
        return Override(field=field, recommended=None, accepted=True, more_bytes=None, by_itself=None, moved=())
    advice = next((entry for entry in wished.advice if entry.field == field), None)
    without, chosen = wished.plan.to_dict(), plan.to_dict()
    named = (name for name in chosen if name not in asked.situation.pins and METHODS[plan.method].uses(name))
    moved = ((name, without[name], chosen[name]) for name in named)
    return Override(
        field=field,
        recommended=advice.value if advice else None,
        accepted=advice is None or advice.accepts(getattr(plan, field)),
        more_bytes=_difference(asked, plan, wished.plan) if advice else None,
        by_itself=_alone(asked, wished.plan, field, getattr(plan, field)) if advice else None,
        moved=tuple(entry for entry in moved if entry[1] != entry[2]),
    )


def _alone(asked: Request, without: FinetunePlan, field: str, value: Any) -> int | None:
    try:
        alone = changed(asked, without, field, value)
        return _difference(asked, alone, without) if asked.is_warm(alone) else None
    except LorafitError:
        return None


def _difference(asked: Request, plan: FinetunePlan, without: FinetunePlan) -> int | None:
    try:
        return asked.price(plan).used_bytes - asked.price(without).used_bytes
    except LorafitError:
        return None


def _next_rank(plan: FinetunePlan) -> int | None:
    return 2 * plan.r if METHODS[plan.method].has_rank and plan.r < _LARGEST_RANK else None


def _next_targets(plan: FinetunePlan) -> str | None:
    return None if plan.target_modules == "all-linear" else "all-linear"


def _next_optimizer(plan: FinetunePlan) -> str | None:
    return None if plan.optim == _EIGHT_BIT or plan.sharding not in UNSHARDED else _EIGHT_BIT


_OTHER_WAY: Mapping[str, Sharding] = {"ddp": "fsdp", "fsdp": "ddp"}
"""The two ways to share the work that a run has: copies of the model, and its parts."""

_NEXT: Mapping[str, Callable[[FinetunePlan], Any]] = {
    "method": lambda plan: BETTER.get(plan.method),
    "r": _next_rank,
    "target_modules": _next_targets,
    "max_length": lambda plan: 2 * plan.max_length,
    "per_device_train_batch_size": lambda plan: 2 * plan.per_device_train_batch_size,
    "num_train_epochs": lambda plan: plan.num_train_epochs + 1 if plan.max_steps < 0 else None,
    "gradient_checkpointing": lambda plan: not plan.gradient_checkpointing,
    "optim": _next_optimizer,
    "sharding": lambda plan: _OTHER_WAY.get(plan.sharding),
}
