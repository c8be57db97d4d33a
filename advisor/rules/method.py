"""What the method decides about other fields: those that it fixes or ignores."""

import dataclasses

from advisor.advice import Advice, Confidence, Rule, Source
from advisor.situation import Situation
from specs import METHODS, TASK_TYPES, FinetunePlan
from specs.methods import Method
from specs.tasks import TaskType


def within_method(rule: Rule) -> Rule:
    """Return a rule that applies only if the method uses its field, and that keeps what the method fixes."""

    def applies(plan: FinetunePlan) -> bool:
        used = METHODS[plan.method].uses(rule.field) and TASK_TYPES[plan.task_type].uses(rule.field)
        return used and rule.applies(plan)

    def decide(situation: Situation, plan: FinetunePlan) -> Advice:
        advice, method = rule.decide(situation, plan), METHODS[plan.method]
        fixed = method.preset.get(rule.field, advice.value)
        if fixed == advice.value:
            return advice
        return dataclasses.replace(
            advice,
            value=fixed,
            range=(fixed,),
            reason=f"{method.label} works only with {rule.field} {'on' if fixed else 'off'}. {advice.reason}",
            source=defined_by(method),
            confidence=Confidence.HIGH,
        )

    return dataclasses.replace(rule, applies=applies, decide=decide)


def defined_by(entry: Method | TaskType) -> Source:
    """Return the paper or documentation that defines a method or a task."""
    title, _, url = entry.source.rpartition(", ")
    return Source(title or entry.label, url)
