"""The layouts of training data: which columns hold what is said by whom, and each row as an example to learn from."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specs import DataError
from trainer.data.columns import proposed_columns
from trainer.data.reading import Finding, Row, rows
from trainer.data.source import DataSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one side says."""

    role: str
    """system, user, assistant, tool, or text for raw text without sides."""
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of the data in the one layout that training uses."""

    row: int
    """Number of the row in the file, from 1."""
    turns: tuple[Turn, ...]
    layout: str = ""
    """Name of the layout that the row was read in."""
    chosen: str | None = None
    """The better answer of a preference pair; the turns then end with the user's."""
    rejected: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way in which data sets arrange their columns."""

    name: str
    roles: tuple[str, ...]
    """The columns that it needs."""
    turns: Callable[[Row], tuple[Turn, ...]]
    """Makes the turns of a row whose columns have the names of the roles."""
    optional: tuple[str, ...] = ()


def examples(source: DataSource) -> Iterator[Example | Finding]:
    """Yield each row of a file as an example, or as a finding that says why it is none.

    Raises:
        DataError: If the file cannot be read, is empty, or has an unknown layout.
    """
    layout: Layout | None = None
    number = 0
    for number, row in rows(Path(source.path)):
        if isinstance(row, Finding):
            yield row
            continue
        named = _named(row, source.columns)
        layout = layout or recognised_layout(named, source.path)
        yield _example(number, named, layout)
    if number == 0:
        raise DataError(Path(source.path).name, "must have at least one row", 0, "Choose a file with data")


def first_example(source: DataSource) -> Example:
    """Return the first row that can be trained on, without reading further.

    Raises:
        DataError: If the file cannot be read, or has no such row.
    """
    finding: Finding | None = None
    for entry in examples(source):
        if isinstance(entry, Example):
            return entry
        finding = finding or entry
    raise DataError(Path(source.path).name, "has no row to train on", None, finding.sentence if finding else "")


def recognised_layout(row: Row, path: str) -> Layout:
    """Return the layout whose columns a row has.

    Raises:
        DataError: If no known layout fits; the columns can then be named by hand.
    """
    for layout in LAYOUTS:
        if all(row.get(role) is not None for role in layout.roles):
            return layout
    known = "; ".join(" + ".join(layout.roles) for layout in LAYOUTS)
    likely = ", ".join(f"{role}={column}" for role, column in proposed_columns(row).items())
    raise DataError(
        Path(path).name,
        f"must have the columns of one of these layouts: {known}",
        ", ".join(sorted(map(str, row))),
        f"Say which is which, such as {likely}" if likely else "Rename the columns",
    )


def _named(row: Row, columns: Mapping[str, str]) -> Row:
    """Return a row under the names of roles, where a person said which column plays which role."""
    if not columns:
        return row
    return {role: row.get(column) for role, column in columns.items()}


def _example(number: int, row: Row, layout: Layout) -> Example | Finding:
    try:
        turns = layout.turns(row)
        chosen, rejected = row.get("chosen"), row.get("rejected")
        pair = {"chosen": _reply(chosen), "rejected": _reply(rejected)} if layout.name == "preference" else {}
        return Example(row=number, turns=_checked(turns, pair=bool(pair)), layout=layout.name, **pair)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        reason = str(error) if type(error) is ValueError else f"does not have the layout {layout.name}"
        return Finding(row=number, sentence=f"Row {number}: {reason}.")


def _checked(turns: tuple[Turn, ...], *, pair: bool) -> tuple[Turn, ...]:
    """Refuse an example without anything to learn from."""
    if any(not isinstance(turn.content, str) for turn in turns):
        raise ValueError("every content must be text")
    learned = [turn for turn in turns if turn.role in {"assistant", "text"}]
    if not pair and not learned:
        raise ValueError("has no answer of the assistant")
    if not pair and not any(turn.content.strip() for turn in learned):
        raise ValueError("has an empty answer")
    return turns


def _reply(value: Any) -> str:
    """Return the text of an answer, which is text or the last of a list of messages."""
    text = value[-1]["content"] if isinstance(value, list) and value else value
    if not isinstance(text, str) or not text.strip():
        raise ValueError("has an empty answer")
    return text


_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


def _message_turns(row: Row) -> tuple[Turn, ...]:
    return tuple(Turn(role=_role(entry["role"]), content=entry["content"]) for entry in row["messages"])


def _conversation_turns(row: Row) -> tuple[Turn, ...]:
    if row["conversations"] and "role" in row["conversations"][0]:
        return _message_turns({"messages": row["conversations"]})
    return tuple(Turn(role=_role(entry["from"]), content=entry["value"]) for entry in row["conversations"])


def _role(name: str) -> str:
    role = _ROLES.get(name, name)
    if role not in {"system", "user", "assistant", "tool"}:
        raise ValueError(f"has the unknown role {name!r}; known are system, user, assistant and tool")
    return role


def _alpaca_turns(row: Row) -> tuple[Turn, ...]:
    more = row.get("input")
    question = f"{row['instruction']}\n\n{more}" if isinstance(more, str) and more.strip() else row["instruction"]
    return Turn(role="user", content=question), Turn(role="assistant", content=row["output"])


def _pair_turns(question: str, answer: str) -> Callable[[Row], tuple[Turn, ...]]:
    def turns(row: Row) -> tuple[Turn, ...]:
        if isinstance(row[question], list):
            before, after = _message_turns({"messages": row[question]}), _reply(row[answer])
            return (*before, Turn(role="assistant", content=after))
        return Turn(role="user", content=row[question]), Turn(role="assistant", content=row[answer])

    return turns


def _preference_turns(row: Row) -> tuple[Turn, ...]:
    prompt = row["prompt"]
    if isinstance(prompt, list):
        return _message_turns({"messages": prompt})
    return (Turn(role="user", content=prompt),)


def _text_turns(row: Row) -> tuple[Turn, ...]:
    return (Turn(role="text", content=row["text"]),)


LAYOUTS = (
    Layout(name="messages", roles=("messages",), turns=_message_turns),
    Layout(name="ShareGPT", roles=("conversations",), turns=_conversation_turns),
    Layout(name="preference", roles=("prompt", "chosen", "rejected"), turns=_preference_turns),
    Layout(name="alpaca", roles=("instruction", "output"), optional=("input",), turns=_alpaca_turns),
    Layout(name="prompt and completion", roles=("prompt", "completion"), turns=_pair_turns("prompt", "completion")),
    Layout(name="prompt and response", roles=("prompt", "response"), turns=_pair_turns("prompt", "response")),
    Layout(name="question and answer", roles=("question", "answer"), turns=_pair_turns("question", "answer")),
    Layout(name="text", roles=("text",), turns=_text_turns),
)
"""Every layout that is recognised, the more specific first."""
