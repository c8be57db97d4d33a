"""The advice itself: rules wish, the search fits, and every field is explained from the plan that came out."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from advisor import levers, sources, speed, warnings
from advisor.advice import Advice, AtLeast, Caution, Confidence, Estimate, Price, Rule, spelled, unbounded
from advisor.levers import Alternative, Lever
from advisor.rules import RULE_SETS, classic, contradictions
from advisor.search import HEADROOM, Fit, Search
from advisor.situation import Situation
from advisor.speed import Speed
from specs import METHODS, FinetunePlan, PlanError, gib


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The plan for a situation, why it is so, what it costs, and what else there is."""

    plan: FinetunePlan
    advice: tuple[Advice, ...]
    estimate: Estimate
    fits: bool
    headroom: float
    """Share of the available memory that stays free."""
    alternatives: tuple[Alternative, ...]
    levers: tuple[Lever, ...]
    warnings: tuple[Caution, ...]
    speed: Speed | None
    """Time of a step; None where the device's throughput is unknown."""
    speed_unknown: str
    """Why there is no speed; empty where there is one."""

    def advised(self, field: str) -> Advice:
        """Return the advice on one field.

        Raises:
            PlanError: If the plan's method does not use the field.
        """
        for advice in self.advice:
            if advice.field == field:
                return advice
        raise PlanError(field, f"is not advised under method {self.plan.method}")

    def to_dict(self) -> dict[str, Any]:
        """Return the recommendation as plain JSON values."""
        return {
            "plan": self.plan.to_dict(),
            "advice": [advice.to_dict() for advice in self.advice],
            "estimate": self.estimate.to_dict(),
            "fits": self.fits,
            "headroom": round(self.headroom, 4),
            "alternatives": [entry.to_dict() for entry in self.alternatives],
            "levers": [lever.to_dict() for lever in self.levers],
            "warnings": [caution.to_dict() for caution in self.warnings],
            "speed": None if self.speed is None else self.speed.to_dict(),
            "speed_unknown": self.speed_unknown,
        }


def advise(
    situation: Situation, *, rules: str = "evidence", price: Price, at_least: AtLeast = unbounded
) -> Recommendation:
    """Recommend a plan for a situation.

    Args:
        situation: Model, device, data, task, goal and fixed choices.
        rules: ``evidence``, or ``classic`` for the textbook table as it stands.
        price: What a plan costs in memory; asked about 10 times.
        at_least: What a plan certainly uses; what it rules out is not priced.

    Raises:
        PlanError: If the rule set is unknown or the fixed choices contradict each other.
    """
    if rules not in RULE_SETS:
        raise PlanError("rules", f"must be one of {', '.join(RULE_SETS)}", rules)
    rule_set = RULE_SETS[rules]
    search = Search(situation, rule_set, price, at_least)
    if rules == "classic":
        plan = search.drafted(classic.method(situation))
        fit = search.as_it_is(plan)
        advice = (classic.method_advice(situation), *_explained(search, fit, rule_set))
        cautions = (
            *contradictions.disagreements(situation, fit.plan, fit.estimate),
            *warnings.cautions(situation, plan, fit.estimate),
        )
    else:
        fit = search.best()
        advice = (_method_advice(situation, fit), *_explained(search, fit, rule_set))
        cautions = warnings.cautions(situation, fit.plan, fit.estimate)
    return Recommendation(
        plan=fit.plan,
        advice=advice,
        estimate=fit.estimate,
        fits=fit.fits,
        headroom=fit.headroom,
        alternatives=levers.alternatives(search, fit),
        levers=levers.levers(search, fit),
        warnings=cautions,
        speed=speed.step_speed(situation, fit.plan),
        speed_unknown=speed.unknown_because(situation, fit.plan),
    )


def _method_advice(situation: Situation, fit: Fit) -> Advice:
    """Return why the search took this method."""
    plan, memory = fit.plan, situation.phrase("memory")
    label = METHODS[plan.method].label
    used = gib(fit.estimate.used_bytes)
    better = [f"{METHODS[name].label} needs at least {gib(needed)}" for name, needed in fit.refused.items()]
    outcome = f"{label} uses {used} of {memory} on {situation.gpu.name} for {situation.phrase('model')}"
    if "method" in situation.pins:
        reason = f"You fixed it; {outcome}."
    elif not fit.fits:
        reason = f"Nothing fits: {'; '.join(better)}. {outcome}, the least of all."
    elif situation.goal == "memory":
        reason = f"{outcome}: 4 bits a weight is the least."
    elif better and plan.method not in fit.refused:
        reason = f"{'; '.join(better)}; {outcome}, the highest precision that fits."
    else:
        reason = f"{outcome}, the highest precision that fits and leaves {fit.headroom:.0%} free."
    return Advice(
        field="method",
        value=plan.method,
        range=_acceptable_methods(fit),
        reason=reason,
        source=sources.ESTIMATE,
        confidence=Confidence.HIGH if fit.headroom >= HEADROOM else Confidence.MEDIUM,
    )


def _acceptable_methods(fit: Fit) -> tuple[str, ...]:
    """Return the chosen method and what costs no more memory."""
    more = {"lora": ("lora-8bit", "qlora", "rslora", "dora"), "full": ("lora", "qlora")}
    return (fit.plan.method, *more.get(fit.plan.method, ()))


def _explained(search: Search, fit: Fit, rule_set: tuple[Rule, ...]) -> tuple[Advice, ...]:
    """Return the advice on every field that means something to the plan."""
    return tuple(
        _adjusted(search.situation, rule.decide(search.situation, fit.plan), fit)
        for rule in rule_set
        if rule.applies(fit.plan)
    )


def _adjusted(situation: Situation, advice: Advice, fit: Fit) -> Advice:
    """Return an advice with the value the plan really has, and why it differs from the rule's wish."""
    value = getattr(fit.plan, advice.field)
    if advice.field in situation.pins:
        return dataclasses.replace(
            advice, value=value, reason=f"You fixed it; the advice would be {spelled(advice.value)}. {advice.reason}"
        )
    if value == advice.value:
        return advice
    return dataclasses.replace(
        advice,
        value=value,
        range=_widened(advice, value),
        reason=f"{advice.reason} {_cause(situation, advice, fit)}",
    )


def _cause(situation: Situation, advice: Advice, fit: Fit) -> str:
    """Return the sentence that says why the search took another value than wished."""
    value, memory = getattr(fit.plan, advice.field), situation.phrase("memory")
    free = f"{fit.headroom:.0%} of {memory}"
    if advice.field == "gradient_checkpointing":
        kept = "memory is short, so activations are recomputed" if value else "activations are kept: faster, and"
        return f"Here {kept} {'and ' if value else ''}{free} stays free."
    return f"Here {spelled(value)} instead of {spelled(advice.value)}, so that {free} stays free."


def _widened(advice: Advice, value: Any) -> tuple[Any, ...]:
    if advice.accepts(value):
        return advice.range
    if advice.is_interval:
        return (min(advice.range[0], value), max(advice.range[1], value))
    return (value, *advice.range)
