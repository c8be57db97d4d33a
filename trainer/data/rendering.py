"""Turns an example into tokens and says which of them the loss counts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.data.layouts import Example, Turn

IGNORED = -100
"""The label that PyTorch's cross entropy leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The text of an example as the model reads it, and the parts that it shall learn to say."""

    text: str
    learned: tuple[tuple[int, int], ...]
    """Spans of characters, from the first to before the last."""

    def pieces(self) -> Iterator[tuple[str, bool]]:
        """Yield the text in pieces, each with whether it is learned."""
        position = 0
        for start, end in self.learned:
            if position < start:
                yield self.text[position:start], False
            yield self.text[start:end], True
            position = end
        if position < len(self.text):
            yield self.text[position:], False


def rendered(example: Example, tokenizer: Any) -> Rendered:
    """Return an example as the model reads it: by the tokenizer's chat template, or in plain headings without one."""
    if example.turns[0].role == "text":
        text = example.turns[0].content + (tokenizer.eos_token or "")
        return Rendered(text=text, learned=((0, len(text)),))
    whole = chat_text(example.turns, tokenizer)
    spans = []
    for index, turn in enumerate(example.turns):
        if turn.role == "assistant":
            before = chat_text(example.turns[:index], tokenizer, ask=True) if index else ""
            after = chat_text(example.turns[: index + 1], tokenizer)
            start, end = _common_prefix(before, whole), _common_prefix(after, whole)
            if start < end:
                spans.append((start, end))
    return Rendered(text=whole, learned=tuple(spans))


def labelled(text: Rendered, tokenizer: Any, *, max_length: int, whole: bool) -> dict[str, list[int]] | None:
    """Return ``input_ids`` and ``labels`` cut to a length, or None if nothing is left to learn.

    Args:
        text: What to tokenize.
        tokenizer: A fast tokenizer of transformers.
        max_length: Most tokens that are kept.
        whole: Whether the prompt counts in the loss too.
    """
    encoded = tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False)
    ids = encoded["input_ids"][:max_length]
    offsets = encoded["offset_mapping"][:max_length]
    labels = list(ids) if whole else _labels(ids, offsets, text.learned)
    if all(label == IGNORED for label in labels):
        return None
    return {"input_ids": list(ids), "labels": labels}


def chat_text(turns: Sequence[Turn], tokenizer: Any, *, ask: bool = False) -> str:
    """Return turns as the model reads them; ``ask`` ends with the heading of the answer."""
    if tokenizer.chat_template:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
        return text
    end = tokenizer.eos_token or ""
    parts = [
        f"### {turn.role.capitalize()}:\n{turn.content}{end if turn.role == 'assistant' else ''}" for turn in turns
    ]
    return "\n\n".join([*parts, "### Assistant:\n"] if ask else parts)


def _labels(ids: Sequence[int], offsets: Sequence[tuple[int, int]], learned: Sequence[tuple[int, int]]) -> list[int]:
    """Return the ids of the tokens that end within a learned span; the rest is ignored."""
    labels = [IGNORED] * len(ids)
    spans = iter(learned)
    start, end = next(spans, (0, 0))
    for index, (first, last) in enumerate(offsets):
        while first >= end and (start, end) != (0, 0):
            start, end = next(spans, (0, 0))
        if start <= first < end and last > first:
            labels[index] = ids[index]
    return labels


def _common_prefix(left: str, right: str) -> int:
    """Return how many characters two texts share from their beginning."""
    if right.startswith(left):
        return len(left)
    return next(
        (index for index, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )
