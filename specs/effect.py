"""Which of the fields that somebody has set change nothing under a plan's method or task, in sentences."""

from collections.abc import Iterable, Iterator

from specs.errors import PlanError
from specs.fields import PlanFields
from specs.methods import METHODS
from specs.tasks import TASK_TYPES

_MOST_NAMED = 3
"""Methods that are named of those that have a field."""


def without_effect(plan: PlanFields, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield every field of some that changes nothing, with what is to be said of it after its name.

    Args:
        plan: The plan.
        names: Fields that somebody has set in it.
    """
    method, task = METHODS[plan.method], TASK_TYPES[plan.task_type]
    for name in sorted(names):
        if not method.uses(name):
            others = [entry.label for entry in METHODS.values() if entry.uses(name)]
            told = ", ".join(others[:_MOST_NAMED]) + (" and others" if len(others) > _MOST_NAMED else "")
            yield name, f"{method.label} has no such setting. Methods that have it: {told}."
        elif not task.uses(name):
            yield name, f"{task.label} has no use for it."


def require_effect(plan: PlanFields, names: Iterable[str], *, option: str) -> None:
    """Refuse fields that change nothing where changing them is all that was asked for.

    Raises:
        PlanError: Names the first of them.
    """
    for name, why in without_effect(plan, names):
        sentence, _, way_out = why.partition(". ")
        raise PlanError(option, f"must change something: {sentence.rstrip('.')}", name, way_out or "Leave it out")
