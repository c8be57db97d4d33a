"""Texts that belong together, as embeddings are trained on them: a text, its match, wrong ones, or a score of two."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from trainer.data.forms import messages
from trainer.data.forms.messages import Turn
from trainer.data.row import UnreadableError

QUERY, DOCUMENT = ("query",), ("document", "passage", "corpus")
"""What models call the prompt before a text that searches, and before one that is found: the first that there is."""

_LISTED = ("text", "passage", "document", "content")
"""Keys of a passage that is an object of its own, as in Tevatron's data."""


class Related(NamedTuple):
    """One row of texts that belong together."""

    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()
    """Texts that do not belong to the anchor."""
    score: float | None = None
    """How alike the two texts are, on the data's own scale; None where the positive is right."""


def is_pair(turns: Sequence[Turn]) -> bool:
    """Return whether turns are a question and its one answer, in which a text and its match can be seen."""
    *asked, last = turns
    plain = not any(turn.more for turn in turns)
    return plain and last.role == "assistant" and last.learned and {turn.role for turn in asked} == {"user"}


def texts(found: Related) -> tuple[str, ...]:
    """Return all texts of a row, each of which is read by itself."""
    return (found.anchor, found.positive, *found.negatives)


def prompted(found: Related, prompts: Mapping[str, str]) -> tuple[str, ...]:
    """Return the texts of a row, each behind the prompt that its model has for it.

    Two texts with a score are of one kind, so neither of them is a query.
    """
    if found.score is not None:
        return texts(found)
    query, document = (next((prompts[name] for name in names if prompts.get(name)), "") for names in (QUERY, DOCUMENT))
    return (query + found.anchor, *(document + text for text in (found.positive, *found.negatives)))


def score_of(value: Any, column: str) -> float:
    """Return how alike two texts are, as a number.

    Raises:
        UnreadableError: If the value is no finite number.
    """
    try:
        score = float(value)
    except (TypeError, ValueError) as error:
        raise UnreadableError(f"{column} must be a number, got {str(value)[:40]!r}") from error
    if not math.isfinite(score):
        raise UnreadableError(f"{column} must be a finite number, got {score}")
    return score


def passages(value: Any, column: str) -> tuple[str, ...]:
    """Return the one or several texts of a column: a text, a list of them, or objects with a text each.

    Raises:
        UnreadableError: If there is something else.
    """
    found = messages.parsed(value) if isinstance(value, str) and value.lstrip()[:1] == "[" else value
    listed = [found] if isinstance(found, str | Mapping) else found
    if not isinstance(listed, list | tuple) or not listed:
        raise UnreadableError(f"{column} must be a text or a list of texts, got {type(value).__name__}")
    return tuple(_passage(entry, column) for entry in listed)


def negatives(row: Mapping[str, Any], columns: Sequence[str]) -> Iterator[str]:
    """Yield the wrong texts of a row, column by column; empty columns are passed over."""
    for column in columns:
        if row.get(column) not in (None, "", []):
            yield from passages(row[column], column)


def _passage(value: Any, column: str) -> str:
    """Return a text; of an object with a title and a text, both."""
    if isinstance(value, Mapping):
        said = next((str(value[key]) for key in _LISTED if value.get(key)), "")
        return f"{value['title']} {said}" if value.get("title") else said
    return messages.text(value, column)
