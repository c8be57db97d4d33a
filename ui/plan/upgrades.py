"""What the memory that is left could be spent on: single changes that need more of it. Knows no widget."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from advisor.rules import RULE_SETS
from advisor.search import drafted
from advisor.speed import relative_time
from estimator.estimate import Verdict
from specs import METHODS, FinetunePlan, LorafitError
from ui.plan.planning import Request

_BETTER = {"qlora": "lora", "lora-8bit": "lora", "lora": "full"}
_GAINS = {
    "lora": "the base model keeps its 16 bits",
    "full": "every weight learns; needs much data, and forgets most",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """One change of a plan that takes more memory."""

    field: str
    before: Any
    after: Any
    more_bytes: int
    """Used memory more than the plan's."""
    verdict: Verdict
    """Whether the changed plan fits."""
    gain: str
    """What it is good for."""


def spendings(asked: Request, plan: FinetunePlan) -> tuple[Spending, ...]:
    """Return single changes that need more memory, with what they bring, the cheapest first."""
    used, found = asked.price(plan).used_bytes, []
    for field, changed, gain in _changes(asked, plan):
        try:
            estimate = asked.price(changed)
        except LorafitError:
            continue
        if estimate.used_bytes > used:
            spending = Spending(
                field=field,
                before=getattr(plan, field),
                after=getattr(changed, field),
                more_bytes=estimate.used_bytes - used,
                verdict=estimate.verdict,
                gain=gain,
            )
            found.append(spending)
    return tuple(sorted(found, key=lambda entry: entry.more_bytes))


def _changes(asked: Request, plan: FinetunePlan) -> Iterator[tuple[str, FinetunePlan, str]]:
    if plan.gradient_checkpointing:
        kept = dataclasses.replace(plan, gradient_checkpointing=False)
        yield "gradient_checkpointing", kept, _time(asked, plan, kept, "no activation is computed twice")
    if plan.gradient_accumulation_steps > 1:
        batch, steps = plan.per_device_train_batch_size * 2, max(1, plan.gradient_accumulation_steps // 2)
        wider = dataclasses.replace(plan, per_device_train_batch_size=batch, gradient_accumulation_steps=steps)
        yield "per_device_train_batch_size", wider, _time(asked, plan, wider, "the same result in fewer passes")
    if (cut := asked.data.report.share_truncated(plan.max_length)) > 0:
        longer = dataclasses.replace(plan, max_length=plan.max_length * 2)
        yield "max_length", longer, f"{cut:.0%} of the rows are cut now"
    if METHODS[plan.method].has_rank:
        richer = dataclasses.replace(plan, r=plan.r * 2, lora_alpha=plan.lora_alpha * 2)
        yield "r", richer, "twice as much can be learned; helps where there is much data"
    if plan.method in _BETTER:
        better = _BETTER[plan.method]
        yield "method", _under(asked, plan, better), _GAINS[better]


def _under(asked: Request, plan: FinetunePlan, method: str) -> FinetunePlan:
    """Return the plan that the rules wish for under a method, with the batch, length and checkpointing of this one."""
    kept = ("per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "gradient_checkpointing")
    situation = dataclasses.replace(asked.situation, pins={})
    wished = drafted(situation, method, RULE_SETS["evidence"])
    return dataclasses.replace(wished, **{name: getattr(plan, name) for name in kept})


def _time(asked: Request, plan: FinetunePlan, changed: FinetunePlan, words: str) -> str:
    """Return what a change is good for, with the share of time that it saves where that is known."""
    share = relative_time(asked.situation, changed, plan)
    return words if share is None or share >= 1 else f"{words}; about {1 - share:.0%} less time"
