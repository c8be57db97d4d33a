"""What to do with memory that is free: single changes that need more of it and still fit. Draws nothing."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from advisor.levers import with_rank
from advisor.rules import RULE_SETS
from advisor.search import drafted
from advisor.speed import relative_time
from specs import METHODS, FinetunePlan, LorafitError
from ui.plan.planning import Request

BETTER = {"qlora": "lora", "lora-8bit": "lora", "lora": "full"}
"""The method that keeps more of the model, for those that have one."""
_GAINS = {
    "lora": "the base model stays in 16 bit",
    "full": "every weight learns; needs a lot of data and forgets the most",
}


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


def upgrades(asked: Request, plan: FinetunePlan) -> tuple[Upgrade, ...]:
    """Return single changes that take more memory and still fit, with their benefit, the cheapest first."""
    used, found = asked.price(plan).used_bytes, []
    for field, changed, gain in _changes(asked, plan):
        if not asked.is_warm(changed):  # a chip is not worth the wait for a trace
            continue
        try:
            estimate = asked.price(changed)
        except LorafitError:
            continue
        if estimate.used_bytes > used and estimate.verdict != "does not fit":
            upgrade = Upgrade(
                field=field,
                before=getattr(plan, field),
                after=getattr(changed, field),
                more_bytes=estimate.used_bytes - used,
                gain=gain,
            )
            found.append(upgrade)
    return tuple(sorted(found, key=lambda entry: entry.more_bytes))


def _changes(asked: Request, plan: FinetunePlan) -> Iterator[tuple[str, FinetunePlan, str]]:
    if plan.gradient_checkpointing:
        kept = dataclasses.replace(plan, gradient_checkpointing=False)
        yield "gradient_checkpointing", kept, _time(asked, plan, kept, "no activations are recomputed")
        fewer = dataclasses.replace(plan, every_n_layers=2 * plan.every_n_layers)
        yield "every_n_layers", fewer, _time(asked, plan, fewer, "fewer layers are recomputed")
        here = dataclasses.replace(plan, activation_offloading=False)
        yield "activation_offloading", here, _time(asked, plan, here, "no layer's input crosses the bus")
    if plan.layer_offloading:
        whole = dataclasses.replace(plan, layer_offloading=False)
        yield "layer_offloading", whole, _time(asked, plan, whole, "no layer crosses the bus")
    if plan.gradient_accumulation_steps > 1:
        batch, steps = plan.per_device_train_batch_size * 2, max(1, plan.gradient_accumulation_steps // 2)
        wider = dataclasses.replace(plan, per_device_train_batch_size=batch, gradient_accumulation_steps=steps)
        yield "per_device_train_batch_size", wider, _time(asked, plan, wider, "the same result in fewer passes")
    longer = dataclasses.replace(plan, max_length=plan.max_length * 2)
    now, then = (asked.situation.truncated(length) for length in (plan.max_length, longer.max_length))
    if now != then:
        yield "max_length", longer, f"{now} now; then {then}"
    if METHODS[plan.method].has_rank:
        yield "r", with_rank(plan, 2 * plan.r), "a larger adapter can learn more; helps with a lot of data"
    if plan.method in BETTER:
        better = BETTER[plan.method]
        yield "method", under(asked, plan, better), _GAINS[better]


def under(asked: Request, plan: FinetunePlan, method: str) -> FinetunePlan:
    """Return the plan that the rules prefer for a method, with the batch, length and checkpointing of this one."""
    kept = ("per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "gradient_checkpointing")
    situation = dataclasses.replace(asked.situation, pins={})
    wished = drafted(situation, method, RULE_SETS["evidence"])
    return dataclasses.replace(wished, **{name: getattr(plan, name) for name in kept})


def _time(asked: Request, plan: FinetunePlan, changed: FinetunePlan, words: str) -> str:
    """Return the benefit of a change, with the share of time that it saves if that is known."""
    share = relative_time(asked.situation, changed, plan)
    return words if share is None or share >= 1 else f"{words}; about {1 - share:.0%} less time"
