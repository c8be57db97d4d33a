"""The advice itself: rules propose, the search makes it fit, and every field of the result is explained."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advisor import levers, sources, speed, warnings
from advisor.advice import Advice, Caution, Confidence, Estimate, LowerBound, Price, Rule, no_lower_bound, spelled
from advisor.levers import Alternative, Lever
from advisor.rules import RULE_SETS, classic, contradictions
from advisor.search import HEADROOM, Fit, Search
from advisor.situation import Situation
from advisor.speed import Speed
from specs import METHODS, FinetunePlan, PlanError, gib, sharing
from specs.stored import stored_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The plan for a situation, the reasons for it, what it costs, and the alternatives."""

    plan: FinetunePlan
    advice: tuple[Advice, ...]
    estimate: Estimate
    fits: bool
    headroom: float
    """Share of the available memory that is left free."""
    alternatives: tuple[Alternative, ...]
    levers: tuple[Lever, ...]
    warnings: tuple[Caution, ...]
    speed: Speed | None
    """Time of a step; None if the device's throughput is unknown."""
    speed_unknown: str
    """Why there is no speed; empty if there is one."""

    def advised(self, field: str) -> Advice:
        """Return the advice on one field.

        Raises:
            PlanError: If the plan's method does not use the field.
        """
        for advice in self.advice:
            if advice.field == field:
                return advice
        raise PlanError(field, f"has no advice under method {self.plan.method}")

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
    situation: Situation, *, rules: str = "evidence", price: Price, at_least: LowerBound = no_lower_bound
) -> Recommendation:
    """Recommend a plan for a situation.

    Args:
        situation: Model, device, data, task, goal and pinned fields.
        rules: ``evidence``, or ``classic`` for the textbook table unchanged.
        price: Estimates the memory of a plan; called about 10 times.
        at_least: Bytes that a plan certainly uses; plans that it rules out are not priced.

    Raises:
        PlanError: If the rule set is unknown or pinned fields contradict each other.
    """
    if rules not in RULE_SETS:
        raise PlanError("rules", f"must be one of {', '.join(RULE_SETS)}", rules)
    rule_set = RULE_SETS[rules]
    search = Search(situation, rule_set, price, at_least)
    if rules == "classic":
        plan = search.drafted(classic.method(situation))
        fit = search.unchanged(plan)
        advice = (classic.method_advice(situation), *_explained(search, fit, rule_set))
        cautions = (
            *contradictions.disagreements(situation, fit.plan, fit.estimate),
            *warnings.cautions(situation, plan, fit.estimate),
        )
    else:
        fit, length = _ended_soon(search, search.best())
        explained = _explained(search, fit, rule_set)
        advice = (_method_advice(situation, fit), *(length.get(entry.field, entry) for entry in explained))
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
        speed_unknown=speed.why_unknown(situation, fit.plan),
    )


def _ended_soon(search: Search, fit: Fit) -> tuple[Fit, Mapping[str, Advice]]:
    """Return a trial on a slow machine with as few steps as end soon, and the advice on its length, by field."""
    situation = search.situation
    steps = speed.quick_steps(situation, fit.plan)
    if steps is None or {"max_steps", "num_train_epochs"} & situation.pins.keys():
        return fit, {}
    plan = search.of_steps(fit.plan, steps)
    found = speed.step_speed(situation, plan)
    taken = (found.total_seconds or 0.0) if found else 0.0
    does = f"at its measured speed {steps:,} steps do"
    if taken > speed.TRIAL_SECONDS:
        does = f"fewer than {steps} steps show nothing, and {steps} take about {math.ceil(taken / 60)} minutes"
    shorter = Advice(
        field="max_steps",
        value=steps,
        range=(-1, steps),
        reason=f"A trial on {situation.gpu.name} should end within {speed.TRIAL_SECONDS / 60:.0f} minutes, answers "
        f"included: {does}. With -1 it learns all rows.",
        source=sources.CPU_MEASURED,
        confidence=Confidence.HIGH,
    )
    return dataclasses.replace(fit, plan=plan), {"max_steps": shorter}


def _method_advice(situation: Situation, fit: Fit) -> Advice:
    """Return why the search chose this method."""
    plan, memory = fit.plan, situation.phrase("memory")
    label = METHODS[plan.method].label
    used = gib(fit.estimate.used_bytes)
    needs = {name: f"{METHODS[name].label} needs at least {gib(needed)}" for name, needed in fit.refused.items()}
    better = [text for name, text in needs.items() if name != plan.method]
    outcome = f"{label} uses {used} of {memory} on {situation.gpu.name} for {situation.phrase('model')}"
    stored = stored_in(situation.model.config)
    if "method" in situation.pins:
        reason = f"You set this; {outcome}."
    elif stored in {"4bit", "8bit"}:
        bits = stored.removesuffix("bit")
        reason = f"The weights are stored in {bits} bit already, which {label} trains as they are; {outcome}."
    elif not fit.fits:
        reason = f"Nothing fits: {'; '.join((*better, outcome))}, less than any other plan."
    elif situation.goal == "memory":
        reason = f"{outcome}: 4 bits per weight need the least memory."
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
    """Return the chosen method and those that the evidence does not set below it."""
    more = {"lora": ("lora-8bit", "qlora", "rslora", "dora", "miss", "oft"), "full": ("lora", "qlora")}
    return (fit.plan.method, *more.get(fit.plan.method, ()))


def _explained(search: Search, fit: Fit, rule_set: tuple[Rule, ...]) -> tuple[Advice, ...]:
    """Return the advice on every field that applies to the plan."""
    return tuple(
        _adjusted(search.situation, rule.decide(search.situation, fit.plan), fit)
        for rule in rule_set
        if rule.applies(fit.plan)
    )


def _adjusted(situation: Situation, advice: Advice, fit: Fit) -> Advice:
    """Return advice with the value that the plan really has, and why it differs from what the rule proposed."""
    value = getattr(fit.plan, advice.field)
    if advice.field in situation.pins:
        return dataclasses.replace(
            advice, value=value, reason=f"You set this; the advice would be {spelled(advice.value)}. {advice.reason}"
        )
    if value == advice.value:
        return advice
    return dataclasses.replace(
        advice,
        value=value,
        range=advice.range_with(value),
        reason=f"{advice.reason} {_cause(situation, advice, fit)}",
    )


def _cause(situation: Situation, advice: Advice, fit: Fit) -> str:
    """Return the sentence that says why the search chose another value than the rule."""
    value, memory = getattr(fit.plan, advice.field), situation.phrase("memory")
    result = f"{fit.headroom:.0%} of {memory} is left free" if fit.fits else f"the plan still exceeds {memory}"
    if advice.field == "gradient_checkpointing":
        kept = "memory is short, so activations are recomputed" if value else "activations are kept, which is faster"
        return f"Here {kept}; {result}."
    if advice.field in sharing.needed(dataclasses.replace(fit.plan, **{advice.field: advice.value}), fit.plan.sharding):
        return f"Here {spelled(value)} instead of {spelled(advice.value)}, as sharding {fit.plan.sharding} needs it."
    return f"Here {spelled(value)} instead of {spelled(advice.value)} to save memory; {result}."
