"""Writes training data in the one form that another tool reads, from the examples that a run would learn."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from specs import DataError
from specs.errors import ended
from trainer.data.examples import Example, examples, require_trained
from trainer.data.forms.messages import Turn
from trainer.data.rendering import Renderer
from trainer.data.row import Finding, UnreadableError
from trainer.data.source import DataSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written."""

    rows: int
    reasons: Mapping[str, int]
    """How many rows were left out for each reason."""


def write(source: DataSource, dialect: str, tokenizer: Any, target: Path) -> Written:
    """Write a data set as JSON lines.

    Args:
        source: The data.
        dialect: A name from ``DIALECTS``.
        tokenizer: Whose template must be able to say each row.
        target: The file; it is complete or absent.

    Raises:
        DataError: If the data cannot be read, or no row is left.
    """
    reasons: Counter[str] = Counter()
    scratch = target.with_name(f"{target.name}.part")
    written = 0
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with scratch.open("w", encoding="utf-8") as lines:
            for row in rows(source, dialect, tokenizer, reasons):
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                written += 1
        if not written:
            commonest = next(iter(dict(reasons.most_common(1))), "")
            raise DataError(Path(source.path).name, "has no row that can be converted", None, commonest)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    return Written(rows=written, reasons=dict(reasons.most_common()))


class Wanted(Protocol):
    """What an export asks for: ``advisor.export.Conversion``."""

    @property
    def name(self) -> str:
        """The path of the file, within a folder."""

    @property
    def dialect(self) -> str:
        """A name from ``DIALECTS``."""

    @property
    def evaluation_name(self) -> str:
        """The path of the file with the rows to evaluate on; empty where there is none."""


def write_all(source: DataSource, wanted: Wanted, tokenizer: Any, folder: Path) -> tuple[str, ...]:
    """Write the data that an export asks for into a folder, and return what was done in sentences.

    Raises:
        DataError: As ``write`` does.
    """
    files = {wanted.name: source}
    if wanted.evaluation_name:
        files[wanted.evaluation_name] = replace(source, split=source.evaluation_split)
    told = []
    for name, part in files.items():
        made = write(part, wanted.dialect, tokenizer, folder / name)
        told.append(f"Wrote {made.rows:,} rows as {name}.")
        if made.reasons:
            reason, left_out = next(iter(made.reasons)), sum(made.reasons.values())
            told.append(f"{left_out:,} rows are left out, most of them since: {ended(reason)}")
    return tuple(told)


def rows(source: DataSource, dialect: str, tokenizer: Any, reasons: Counter[str]) -> Iterator[Mapping[str, Any]]:
    """Yield rows in a dialect, and count why others are left out."""
    renderer, said = Renderer(tokenizer, thinking=source.thinking), DIALECTS[dialect]
    for entry in examples(source):
        if isinstance(entry, Finding):
            reasons[entry.reason] += 1
            continue
        require_trained(entry.task, source.path)
        try:
            yield from said(entry, renderer)
        except UnreadableError as error:
            reasons[str(error)] += 1


def _messages(example: Example, renderer: Renderer) -> Iterator[Mapping[str, Any]]:
    """Yield a row as TRL's documentation has it: messages, text, or a prompt with two answers."""
    asked, answers = _sides(example, renderer)
    if len(answers) == 2:
        yield {
            "prompt": _written(asked),
            "chosen": _written(answers[0]),
            "rejected": _written(answers[1]),
            **_tools(example),
        }
    elif asked[0].role == "text":
        yield {"text": asked[0].content}
    else:
        yield {"messages": [_message(turn) for turn in asked], **_tools(example)}


def _answers(example: Example, renderer: Renderer) -> Iterator[Mapping[str, Any]]:
    """Yield each learned answer of a conversation as a row of its own, with what came before it."""
    turns, _ = _sides(example, renderer)
    for index, turn in enumerate(turns):
        if turn.role == "assistant" and turn.learned and index:
            before = [entry.message() for entry in turns[:index]]
            yield {"prompt": before, "completion": [turn.message()], **_tools(example)}


def _texts(example: Example, renderer: Renderer) -> Iterator[Mapping[str, Any]]:
    """Yield each answer as a text behind the text before it, without the tokens at which a text begins and ends."""
    begin, end = renderer.begins_with, renderer.ends_with
    for row in _whole_texts(example, renderer):
        yield {
            name: words.removeprefix(begin) if name == "prompt" else words.removesuffix(end)
            for name, words in row.items()
        }


def _whole_texts(example: Example, renderer: Renderer) -> Iterator[Mapping[str, str]]:
    """Yield each answer as a text behind the text before it, as the model reads both."""
    if example.turns[0].role == "text" and not example.rejected:
        yield {"text": example.turns[0].content}
        return
    if example.rejected:
        better, worse = renderer.both(example)
        start = min(side.learned[0][0] for side in (better, worse))
        chosen, rejected = (side.text[start : side.learned[-1][1]] for side in (better, worse))
        yield {"prompt": better.text[:start], "chosen": chosen, "rejected": rejected}
        return
    said = renderer.rendered(example)
    for start, stop in said.learned:
        yield {"prompt": said.text[:start], "completion": said.text[start:stop]}


_SIDES = {"user": "human", "assistant": "gpt", "tool": "observation"}


def _sharegpt(example: Example, renderer: Renderer) -> Iterator[Mapping[str, Any]]:
    """Yield a row as LLaMA-Factory's data/README.md has it: calls are turns, and sides alternate."""
    asked, answers = _sides(example, renderer)
    if asked[0].role == "text":
        yield {"text": asked[0].content}
        return
    system = asked[0].content if asked[0].role == "system" else ""
    turns = asked[1:] if asked[0].role == "system" else asked
    said = [_turn(turn) for turn in turns]
    _require_alternating(turns, pairs=len(answers) == 2)
    row: dict[str, Any] = {"conversations": said, "system": system, "tools": json.dumps(example.tools or [])}
    if len(answers) == 2:
        row |= {name: _turn(side[0]) for name, side in zip(("chosen", "rejected"), answers, strict=True)}
    yield row if example.tools else {name: value for name, value in row.items() if name != "tools"}


def _require_alternating(turns: Sequence[Turn], *, pairs: bool) -> None:
    sides = ["gpt" if turn.role == "assistant" else "human" for turn in turns]
    if sides != list(itertools.islice(itertools.cycle(("human", "gpt")), len(turns))) or len(turns) % 2 != pairs:
        raise UnreadableError("its turns do not alternate")


def _turn(turn: Turn) -> Mapping[str, str]:
    calls = turn.more.get("tool_calls")
    if calls and turn.content.strip():
        raise UnreadableError("an answer both speaks and calls")
    if calls:
        functions = [call["function"] for call in calls]
        return {"from": "function_call", "value": json.dumps(functions, ensure_ascii=False)}
    thought = turn.more.get("reasoning_content")
    said = f"<think>\n{thought}\n</think>\n\n{turn.content}" if thought is not None else turn.content
    if turn.role not in _SIDES:
        raise UnreadableError(f"a message of the {turn.role} stands amid the others")
    return {"from": _SIDES[turn.role], "value": said}


DIALECTS: Mapping[str, Callable[[Example, Renderer], Iterator[Mapping[str, Any]]]] = {
    "messages": _messages,
    "answers": _answers,
    "texts": _texts,
    "whole texts": _whole_texts,
    "sharegpt": _sharegpt,
}
"""The forms that data is written in."""


def _sides(example: Example, renderer: Renderer) -> tuple[tuple[Turn, ...], tuple[tuple[Turn, ...], ...]]:
    """Return what is asked with both answers of a pair; of other rows all that is said."""
    said = renderer.turns_as_read(example)
    if not example.rejected:
        return said, ()
    worse = renderer.turns_as_read(replace(example, chosen=example.rejected))
    number = len(example.turns)
    return said[:number], (said[number:], worse[number:])


def _written(turns: Sequence[Turn]) -> Any:
    return turns[0].content if turns[0].role == "text" else [turn.message() for turn in turns]


def _message(turn: Turn) -> Mapping[str, Any]:
    """Return a message with the mark of an answer that is not learned."""
    return turn.message() if turn.learned or turn.role != "assistant" else {**turn.message(), "train": False}


def _tools(example: Example) -> Mapping[str, str]:
    """Return the tools as JSON text, so that no loader merges the schemas of different rows."""
    return {"tools": json.dumps(example.tools, ensure_ascii=False)} if example.tools else {}
