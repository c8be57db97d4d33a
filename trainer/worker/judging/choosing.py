"""Which judge reads the rows of a plan."""

from collections.abc import Sequence
from typing import Any

from specs import TASK_TYPES, FinetunePlan
from trainer.worker.judging.finding import Labels, Pairs, Related
from trainer.worker.judging.judge import Judge, Row
from trainer.worker.judging.texts import Texts

_OF_TRANSLATIONS = frozenset({"translation", "source and target"})
"""The layouts in which translations come."""


def judge_of(
    plan: FinetunePlan, tokenizer: Any, rows: Sequence[Row], *, answers: int, general: Sequence[str], layout: str
) -> Judge:
    """Return the judge for a plan's task and its rows.

    Args:
        plan: The plan of the run.
        tokenizer: The one of its result.
        rows: Tokenized rows that were not learned, with their questions and answers.
        answers: Of how many rows the answers are written.
        general: Passages of general text.
        layout: Name of the layout of the data.
    """
    if "chosen_ids" in rows[0]:
        return Pairs(tokenizer, rows)
    if TASK_TYPES[plan.task_type].embeds:
        return Related(tokenizer, rows)
    if plan.task_type in {"SEQ_CLS", "TOKEN_CLS"}:
        return Labels(tokenizer, rows)
    is_decoder = plan.task_type == "CAUSAL_LM"
    judge = Texts(tokenizer, rows, is_decoder=is_decoder, answers=answers, general=general if is_decoder else ())
    judge.translates = layout in _OF_TRANSLATIONS
    judge.chunked = plan.loss == "chunked"
    judge.most_tokens = plan.per_device_train_batch_size * plan.max_length
    return judge
