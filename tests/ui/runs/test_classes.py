"""The page of a run that classifies texts: it speaks of classes, and of no answers."""

import pytest

from specs import TASK_TYPES, FinetunePlan
from ui.runs.facts import wording


@pytest.mark.parametrize("task_type", list(TASK_TYPES))
def test_a_run_of_classes_speaks_of_no_answers(task_type):
    words = wording.of(FinetunePlan.for_method("lora", "m", task_type=task_type))
    said = " ".join(getattr(words, name) for name in words.__slots__).casefold()
    assert ("answer" in said or "chat" in said) == TASK_TYPES[task_type].writes
