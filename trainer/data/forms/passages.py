"""Questions whose answers stand in a text, as SQuAD keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.data.forms.messages import parsed, text
from trainer.data.row import Row, UnreadableError


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A question with the text that its answer is cut out of."""

    question: str
    context: str
    answers: tuple[tuple[int, str], ...]
    """Each right answer: where it begins in the context, and its words; those that do not stand there are left out."""


def passage(row: Row) -> Passage | None:
    """Return the passage of a row, or None where its answers are not cut out of a context."""
    found = answers_of(row.get("answers"))
    if found is None or not isinstance(row.get("context"), str) or not row["context"].strip():
        return None
    texts, starts = found
    if not starts:
        return None
    context = row["context"]
    pairs = zip(map(_whole, starts), texts, strict=False)
    answers = tuple((start, said) for start, said in pairs if _stands(said, context, start))
    return Passage(question=text(row.get("question"), "question"), context=context, answers=answers)


def answers_of(value: Any) -> tuple[list[Any], list[Any]] | None:
    """Return the texts and beginnings of SQuAD's answers, as its data set or its file keeps them; None for others.

    The data set has a list of each, the file a list of pairs: https://rajpurkar.github.io/SQuAD-explorer.
    """
    found = parsed(value)
    if isinstance(found, list | tuple) and found and all(isinstance(one, Mapping) for one in found):
        if not all({"text", "answer_start"} <= one.keys() for one in found):
            return None
        return [one["text"] for one in found], [one["answer_start"] for one in found]
    if not isinstance(found, Mapping) or (found and "text" not in found):
        return None
    return _listed(found.get("text")), _listed(found.get("answer_start"))


def require_answer(passage: Passage) -> None:
    """Refuse a question whose answer is not cut out of its context.

    Raises:
        UnreadableError: If none is.
    """
    if not passage.answers:
        raise UnreadableError("its answer does not stand in its context at answer_start")


def _whole(start: Any) -> Any:
    """Return a whole number as such; a file with gaps keeps them as others."""
    return int(start) if isinstance(start, float) and start.is_integer() else start


def _stands(said: Any, context: str, start: Any) -> bool:
    if not isinstance(said, str) or not said or not isinstance(start, int) or isinstance(start, bool) or start < 0:
        return False
    return context.startswith(said, start)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
