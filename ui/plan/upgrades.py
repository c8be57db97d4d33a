"""What to do with memory that is free: single changes that need more of it and still fit. Draws nothing."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from advisor.levers import with_rank
from advisor.rules import RULE_SETS
from advisor.search import Search, is_compatible
from advisor.speed import relative_time
from specs import METHODS, FinetunePlan, LorafitError
from ui.plan.planning import Request

BETTER = {"qlora": "lora", "lora-8bit": "lora", "lora": "full"}
"""The method that keeps more of the model, for those that have one."""
_GAINS = {
    "lora": "the base model stays in 16 bit",
    "full": "every weight learns; needs a lot of data and forgets the most",
}


_QUICKER = {
    "gradient_checkpointing": "no activations are recomputed",
    "every_n_layers": "fewer layers are recomputed",
    "activation_offloading": "no layer's input crosses the bus",
    "layer_offloading": "no layer crosses the bus",
    "per_device_train_batch_size": "the same result in fewer passes",
}
"""What the changes that save time do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """One change to a plan that takes more memory."""

    field: str
    before: Any
    after: Any
    more_bytes: int
    """How much more memory is used than by the plan."""
    gain: str
    """The benefit of the change."""
    plan: FinetunePlan
    """The changed plan."""


def upgrades(asked: Request, plan: FinetunePlan) -> tuple[Upgrade, ...]:
    """Return single changes that take more memory and still fit, with their benefit, the cheapest first."""
    used, found = asked.price(plan).used_bytes, []
    for field, larger, gain in _changes(asked, plan):
        if not asked.is_warm(larger):  # a chip is not worth the wait for a trace
            continue
        try:
            estimate = asked.price(larger)
        except LorafitError:
            continue
        if estimate.used_bytes > used and estimate.verdict != "does not fit":
            upgrade = Upgrade(
                field=field,
                before=getattr(plan, field),
                after=getattr(larger, field),
                more_bytes=estimate.used_bytes - used,
                gain=gain,
                plan=larger,
            )
            found.append(upgrade)
    return tuple(sorted(found, key=lambda entry: entry.more_bytes))


def _changes(asked: Request, plan: FinetunePlan) -> Iterator[tuple[str, FinetunePlan, str]]:
    for field, after, gain in _candidates(asked, plan):
        larger = changed(asked, plan, field, after)
        yield field, larger, gain or _time(asked, plan, larger, _QUICKER[field])


def _candidates(asked: Request, plan: FinetunePlan) -> Iterator[tuple[str, Any, str]]:
    """Yield each field with its next value and the benefit; without one it is the time that ``_QUICKER`` tells of."""
    if plan.gradient_checkpointing:
        yield "gradient_checkpointing", False, ""
        yield "every_n_layers", 2 * plan.every_n_layers, ""
        yield "activation_offloading", False, ""
    if plan.layer_offloading:
        yield "layer_offloading", False, ""
    if plan.gradient_accumulation_steps > 1:
        yield "per_device_train_batch_size", 2 * plan.per_device_train_batch_size, ""
    now, then = (asked.situation.truncated(length) for length in (plan.max_length, 2 * plan.max_length))
    if now != then:
        yield "max_length", 2 * plan.max_length, f"{now} now; then {then}"
    if METHODS[plan.method].has_rank:
        yield "r", 2 * plan.r, "a larger adapter can learn more; helps with a lot of data"
    if plan.method in BETTER and is_compatible(BETTER[plan.method], asked.situation):
        yield "method", BETTER[plan.method], _GAINS[BETTER[plan.method]]


def changed(asked: Request, plan: FinetunePlan, field: str, after: Any) -> FinetunePlan:
    """Return a plan with one setting changed, and with it only what it is tied to.

    Alpha follows the rank; accumulation follows the batch, so that an optimizer step sees as many rows; a method brings
    settings of its own; what divides the weights needs storage and optimizer that can be divided.
    """
    if field == "method":
        return under(asked, plan, after)
    if field == "sharding":
        return plan.with_sharding(after, fixed=asked.situation.pins)
    if field == "r":
        return with_rank(plan, after)
    if field == "per_device_train_batch_size":
        rows = plan.per_device_train_batch_size * plan.gradient_accumulation_steps
        steps = max(1, rows // after)
        return dataclasses.replace(plan, per_device_train_batch_size=after, gradient_accumulation_steps=steps)
    return dataclasses.replace(plan, **{field: after})


def under(asked: Request, plan: FinetunePlan, method: str) -> FinetunePlan:
    """Return the plan that the rules prefer for a method, with the batch, length and checkpointing of this one."""
    return Search(asked.situation, RULE_SETS["evidence"], asked.price).under_method(plan, method)


def _time(asked: Request, plan: FinetunePlan, larger: FinetunePlan, words: str) -> str:
    """Return the benefit of a change, with the share of time that it saves if that is known."""
    share = relative_time(asked.situation, larger, plan)
    return words if share is None or share >= 1 else f"{words}; about {1 - share:.0%} less time"
