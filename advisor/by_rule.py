"""Advice without a price: what the rules say about a model whose memory cannot be estimated, in its smallest form."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from advisor import sources, speed, warnings
from advisor.advice import Advice, Caution, Confidence, Estimate, spelled
from advisor.rules import RULE_SETS
from advisor.search import Search
from advisor.situation import Situation
from advisor.speed import Speed
from specs import METHODS, FinetunePlan, PlanError


@dataclass(frozen=True, slots=True, kw_only=True)
class ByRule:
    """The plan for a situation by rule alone: nothing is known of its memory."""

    plan: FinetunePlan
    advice: tuple[Advice, ...]
    why: str
    """Why the memory is unknown, in one sentence."""
    warnings: tuple[Caution, ...]
    speed: Speed | None
    """Time of a step; None if the device's throughput is unknown."""
    speed_unknown: str
    """Why there is no speed; empty if there is one."""

    @property
    def memory(self) -> str:
        """What there is to say about the memory."""
        return f"Memory unknown: {self.why}"

    def to_dict(self) -> dict[str, Any]:
        """Return the advice as plain JSON values."""
        return {
            "plan": self.plan.to_dict(),
            "advice": [advice.to_dict() for advice in self.advice],
            "memory_unknown": self.why,
            "warnings": [caution.to_dict() for caution in self.warnings],
            "speed": None if self.speed is None else self.speed.to_dict(),
            "speed_unknown": self.speed_unknown,
        }


def by_rule(situation: Situation, why: str, *, rules: str = "evidence") -> ByRule:
    """Recommend a plan for a model that cannot be estimated: the rules' values, and of what takes memory the least.

    Args:
        situation: Model, device, data, task, goal and pinned fields.
        why: Why there is no estimate, in one sentence.
        rules: ``evidence`` or ``classic``.

    Raises:
        PlanError: If pinned fields contradict each other.
    """
    rule_set = RULE_SETS[rules]
    plan = Search(situation, rule_set, _unpriced).most_careful()
    explained = (rule.decide(situation, plan) for rule in rule_set if rule.applies(plan))
    return ByRule(
        plan=plan,
        advice=(_method(situation, plan), *(_adjusted(situation, advice, plan) for advice in explained)),
        why=why,
        warnings=warnings.cautions(situation, plan, None),
        speed=speed.step_speed(situation, plan),
        speed_unknown=speed.why_unknown(situation, plan),
    )


def _unpriced(_plan: FinetunePlan) -> Estimate:
    raise PlanError("memory", "is unknown for this model")


def _method(situation: Situation, plan: FinetunePlan) -> Advice:
    label = METHODS[plan.method].label
    reason = "You set this." if "method" in situation.pins else f"The memory is unknown, and {label} needs the least."
    return Advice(
        field="method",
        value=plan.method,
        range=(plan.method,),
        reason=reason,
        source=sources.QLORA.at("table 6, memory by method"),
        confidence=Confidence.LOW,
    )


def _adjusted(situation: Situation, advice: Advice, plan: FinetunePlan) -> Advice:
    """Return advice with the value that the plan has, and why it is not what the rule proposed."""
    value = getattr(plan, advice.field)
    if value == advice.value:
        return advice
    if advice.field in situation.pins:
        reason = f"You set this; the advice would be {spelled(advice.value)}. {advice.reason}"
    else:
        reason = f"{advice.reason} Here {spelled(value)}, since the memory is unknown and this needs less."
    return dataclasses.replace(advice, value=value, range=advice.range_with(value), reason=reason)
