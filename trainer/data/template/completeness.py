"""Whether a rendered conversation says everything that its turns say, and the forms that reasoning may take."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from trainer.data.forms.messages import Turn
from trainer.data.row import UnreadableError

THOUGHT = re.compile(r"^\s*<think>(.*?)</think>\s*", re.DOTALL)
"""Reasoning that stands in tags before an answer."""

EARLIER_REASONING = "reasoning before the last answer"
NAMES = "name of a message"
CALLING = "choose a model whose template calls tools, such as Qwen/Qwen3-0.6B"
_LEAVE_OUT = "leave thinking out, or take a model whose template renders it"


def left_out(turns: Sequence[Turn], spans: Sequence[tuple[int, int] | None], text: str) -> tuple[str, ...]:
    """Return what a text lacks on purpose: templates of reasoning models drop what was thought before the last answer.

    Args:
        turns: The conversation.
        spans: For each answer where it stands in the text.
        text: The conversation as the template renders it.

    Raises:
        UnreadableError: If anything else is missing, for the model would learn something else than was given.
    """
    last = max((index for index, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
    dropped = False
    for index, (turn, span) in enumerate(zip(turns, spans, strict=True)):
        number = index + 1
        if turn.role == "assistant" and turn.learned and span is None:
            raise UnreadableError(f"message {number} is not found in what the model's chat template writes")
        place = text[span[0] : span[1]] if span else text
        for name, words in _said(turn):
            if _is_in(words, place):
                continue
            if not name.startswith("reasoning"):
                calls = f": {CALLING}" if turn.more.get("tool_calls") or turn.role == "tool" else ""
                raise UnreadableError(f"{name} of message {number} is left out by the model's chat template{calls}")
            if index == last:
                raise UnreadableError(
                    f"{name} of message {number} is left out by the model's chat template: {_LEAVE_OUT}"
                )
            dropped = True
    unnamed = any(
        turn.role in {"user", "assistant"} and turn.more.get("name") and not _is_in(turn.more["name"], text)
        for turn in turns
    )
    return (*((EARLIER_REASONING,) if dropped else ()), *((NAMES,) if unnamed else ()))


def forms(turns: Sequence[Turn], source: str) -> Iterator[Sequence[Turn]]:
    """Yield turns with reasoning as given, then under a key of its own, then in tags where a template knows them."""
    yield turns
    if any(THOUGHT.match(turn.content) for turn in turns if turn.role == "assistant"):
        yield [_with_key(turn) for turn in turns]
    if "</think>" in source and any("reasoning_content" in turn.more for turn in turns):
        yield [_with_tags(turn) for turn in turns]


def thinks(turn: Turn) -> bool:
    """Return whether an answer begins with reasoning, in a key of its own or in its content."""
    return turn.role == "assistant" and ("reasoning_content" in turn.more or THOUGHT.match(turn.content) is not None)


def _with_key(turn: Turn) -> Turn:
    thought = THOUGHT.match(turn.content) if turn.role == "assistant" else None
    if thought is None:
        return turn
    more = {**turn.more, "reasoning_content": thought[1].strip("\n")}
    return replace(turn, content=turn.content[thought.end() :], more=more)


def _with_tags(turn: Turn) -> Turn:
    thought = turn.more.get("reasoning_content")
    if thought is None:
        return turn
    more = {key: value for key, value in turn.more.items() if key != "reasoning_content"}
    return replace(turn, content=f"<think>\n{thought}\n</think>\n\n{turn.content}", more=more)


def _said(turn: Turn) -> Iterator[tuple[str, str]]:
    """Yield the parts of a turn that the text must have, each with its key."""
    thought = THOUGHT.match(turn.content) if turn.role == "assistant" else None
    if thought:
        yield "reasoning in the content", thought[1]
    yield ("system prompt" if turn.role == "system" else "content"), turn.content[thought.end() if thought else 0 :]
    yield "reasoning_content", turn.more.get("reasoning_content", "")
    for call in turn.more.get("tool_calls", ()):
        function = call["function"]
        yield "tool_calls", function["name"]
        if isinstance(function["arguments"], Mapping):
            yield from (("tool_calls", value) for value in function["arguments"].values() if isinstance(value, str))


def _is_in(words: str, text: str) -> bool:
    """Return whether a text has some words, as they are or as templates write them into JSON."""
    stripped = words.strip()
    escaped = (json.dumps(stripped, ensure_ascii=ascii_)[1:-1] for ascii_ in (False, True))
    return stripped in text or any(form in text for form in escaped)
