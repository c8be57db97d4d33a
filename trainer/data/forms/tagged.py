"""Words with tags, as data sets of named entities and parts of speech keep them: read, and told as entities."""

from collections.abc import Sequence
from typing import Any

from specs.portable.tags import entities
from trainer.data.forms.classes import class_name
from trainer.data.forms.messages import parsed
from trainer.data.row import UnreadableError

SHOWN = 12
"""Entities that are named in a sentence."""


def words_of(value: Any, column: str) -> tuple[str, ...]:
    """Return the words of a row: a list of texts, or its JSON text.

    Raises:
        UnreadableError: If they are no such list.
    """
    found = parsed(value)
    if not isinstance(found, list | tuple) or not all(isinstance(word, str) for word in found):
        raise UnreadableError(f"{column} must be a list of words")
    if not any(word.strip() for word in found):
        raise UnreadableError(f"{column} has no word")
    return tuple(found)


def tags_of(value: Any, column: str, *, words: int) -> tuple[str, ...]:
    """Return the tag of each word: a name, or a whole number as text.

    Raises:
        UnreadableError: If they are no list of tags, or more or fewer than the words.
    """
    found = parsed(value)
    if not isinstance(found, list | tuple):
        raise UnreadableError(f"{column} must be a list with a tag for each word")
    if len(found) != words:
        raise UnreadableError(f"{column} has {len(found):,} tags for {words:,} words")
    return tuple(class_name(tag, column) for tag in found)


def is_tagged(row_words: Any, row_tags: Any) -> bool:
    """Return whether two columns hold lists, as words and their tags are."""
    return all(isinstance(parsed(value), list | tuple) for value in (row_words, row_tags))


def told(words: Sequence[str], tags: Sequence[str]) -> str:
    """Return the entities of a text in words, such as ``Ada Lovelace (PER), London (LOC)``."""
    found = entities(tags)
    named = [f"{' '.join(words[first : last + 1])} ({kind})" for kind, first, last in found[:SHOWN]]
    more = [f"{len(found) - SHOWN:,} more"] if len(found) > SHOWN else []
    return ", ".join([*named, *more]) or "nothing"
