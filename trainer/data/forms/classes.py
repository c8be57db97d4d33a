"""Texts with a class: the words of a class, all classes in order, and the tokens of a text or of a pair of texts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.data.row import UnreadableError

BETWEEN = "\n\n"
"""What stands between two texts where the tokenizer puts nothing between them, and where a pair is shown as one."""

_UNLABELLED = frozenset({"-1", "-100"})
"""What stands for no class: -1 in GLUE's test splits and in SNLI, -100 where tokens are not learned, as in PyTorch."""


def class_name(value: Any, column: str) -> str:
    """Return the name of a class: a text, or a whole number as text.

    Raises:
        UnreadableError: If the value names no class, or several.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as a csv or parquet file with gaps keeps whole numbers
    name = str(value).strip()
    if isinstance(value, float):
        raise UnreadableError(f"{column} must name a class, got the number {value:g}: regression is not trained yet")
    if not isinstance(value, str | int) or not name:
        raise UnreadableError(f"{column} must name one class, got {type(value).__name__}")
    if name in _UNLABELLED:
        raise UnreadableError(f"{column} is {name}, which stands for no class")
    return name


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return each class once: by number if all are numbers, else by the alphabet."""
    found = set(names)
    if all(name.removeprefix("-").isdecimal() for name in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def shown(texts: Sequence[str]) -> str:
    """Return one text, or two as one, as a person reads them."""
    return BETWEEN.join(texts)


def parts(text: str, number: int) -> tuple[str, ...]:
    """Return what a person typed as the one or two texts that a model reads: an empty line or a tab divides them."""
    return tuple(text.replace("\t", BETWEEN, number - 1).split(BETWEEN, number - 1))


def tokens(texts: Sequence[str], tokenizer: Any, *, max_length: int) -> Mapping[str, list[int]]:
    """Return ``input_ids`` of one or two texts, and ``token_type_ids`` where the model reads them.

    A tokenizer that has a token for it puts that between two texts, as BERT's does; the others get an empty line.
    """
    pair = tuple(texts) if tokenizer.sep_token else (shown(texts),)
    encoded = tokenizer(*pair, truncation=True, max_length=max_length, return_attention_mask=False)
    return {name: list(encoded[name]) for name in ("input_ids", "token_type_ids") if name in encoded}
