"""Answers that a model writes, several at the same time."""

from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any, NamedTuple

import torch

from trainer.results.answers import end_tokens, generated_each

_TOGETHER = 8
"""Answers that are written at the same time, at most."""
LONGEST_ANSWER = 128
_ROOM = 16
"""Tokens that an answer may have beyond twice those of the one in the data."""

Asked = tuple[list[int], list[int]]
"""What is read of a row before its first answer, and that answer."""


class Said(NamedTuple):
    """An answer that a model wrote."""

    words: str
    is_whole: bool
    """Whether it ended by itself."""

    @property
    def shown(self) -> str:
        """The answer, with a sign where it was cut."""
        return self.words if self.is_whole else f"{self.words} ...".lstrip()


def batches(asked: Sequence[Asked], most_tokens: int) -> Iterator[Sequence[Asked]]:
    """Yield the questions that are read together: at least one, padded to the longest."""
    some: list[Asked] = []
    for one in asked:
        longest = max(len(ids) for ids, _ in (*some, one))
        if some and (len(some) == _TOGETHER or longest * (len(some) + 1) > most_tokens):
            yield some
            some = []
        some.append(one)
    if some:
        yield some


def written(
    model: Any, tokenizer: Any, some: Sequence[Asked], stop: Event, *, longest: int = LONGEST_ANSWER
) -> list[Said]:
    """Return the likeliest answers to several questions, written together, each no longer than it has reason to be."""
    widest = max(len(asked) for asked, _ in some)
    rooms = [min(longest, 2 * len(right) + _ROOM) for _, right in some]
    ids, mask = [], []
    for asked, _ in some:
        padding = widest - len(asked)
        # A decoder goes on at the end of what it reads; an encoder counts positions from the beginning.
        before, after = (0, padding) if model.config.is_encoder_decoder else (padding, 0)
        ids.append([tokenizer.pad_token_id] * before + asked + [tokenizer.pad_token_id] * after)
        mask.append([0] * before + [1] * len(asked) + [0] * after)
    read = {
        name: torch.tensor(rows, device=model.device) for name, rows in (("input_ids", ids), ("attention_mask", mask))
    }
    said = generated_each(model, tokenizer, read, until=stop, max_new_tokens=max(rooms))
    ends = end_tokens(model, tokenizer)
    return [
        Said(tokenizer.decode(kept, skip_special_tokens=True).strip(), not set(ends).isdisjoint(kept.tolist()))
        for kept in (answer[:most] for answer, most in zip(said, rooms, strict=True))
    ]
