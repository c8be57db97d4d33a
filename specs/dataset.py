"""What a tool must be told about training data: its layout, which column says what, and how the file is kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SYSTEM = "a system column"
AROUND = "context or input beside the question"
HISTORY = "earlier turns in a column of their own"
TOOLS = "tools"
CALLS = "tool calls"
REASONING = "reasoning"
UNLEARNED = "answers that are not to be learned"
UNEVEN = "turns that do not alternate"
LONG = "answers of several turns"
NO_SIDES = "pairs of plain text without sides"
LISTS = "answers as lists of messages"
REWRITTEN = "rows that are not in the plainest form of their layout"
TRAITS = (SYSTEM, AROUND, HISTORY, TOOLS, CALLS, REASONING, UNLEARNED, UNEVEN, LONG, NO_SIDES, LISTS, REWRITTEN)
"""What rows may have that not every tool reads, in words for sentences."""

Shape = Literal["messages", "conversations", "text", "pair", "compared", "lists", "other"]
"""How rows say what is said: messages with role and content, with from and value, one text, a question and an answer as
texts, a question with two answers as texts, two answers as lists of messages, or otherwise."""

_OF_CONVERSATIONS: Mapping[str, Shape] = {"messages": "messages", "conversations": "conversations"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """How a file keeps its rows."""

    kind: str = "jsonl"
    """Its ending; empty for a data set of the Hub."""
    delimiter: str = ","
    """Of a csv file."""
    encoding: str = "utf-8"
    is_plain: bool = True
    """Whether json is a list of rows, and jsonl one object a line in UTF-8, which every tool reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """A data set as another tool must know it."""

    name: str = "data.jsonl"
    """The file as the person calls it, or the id on the Hub."""
    file: DataFile = field(default_factory=DataFile)
    layout: str = ""
    """Name of the recognised layout; empty if nobody looked."""
    task: str = "answers"
    """One of ``trainer.data.source.TASKS``."""
    roles: tuple[str, ...] = ("messages",)
    """The roles that the layout needs."""
    columns: Mapping[str, str] = field(default_factory=lambda: {"messages": "messages"})
    """Role to column, of the roles that the rows have."""
    traits: Mapping[str, int] = field(default_factory=dict)
    """In how many rows each of ``TRAITS`` is found."""
    rows: int = 0
    skipped: int = 0
    thinking: str = "keep"
    split: str = "train"
    evaluation_split: str = ""
    evaluation_name: str = ""
    """A second file with the rows to evaluate on, as a conversion writes it."""
    family: str = ""
    """The chat template of the model's family, as TRL names it; empty where none is known."""
    has_template: bool = True
    """Whether the model has a chat template."""
    marks_answers: bool = True
    """Whether TRL knows what of that template is learned."""
    end_of_turn: str = ""
    """The special token that ends an answer in that template; empty where it is not known."""
    begins_with_bos: bool = False
    """Whether the tokenizer puts BOS before a text."""

    @property
    def is_examined(self) -> bool:
        """Whether somebody looked at the rows."""
        return bool(self.layout)

    @property
    def shape(self) -> Shape:
        """How the rows say what is said."""
        if self.task == "text":
            return "text"
        if self.task == "preference":
            if not {"chosen", "rejected"} <= set(self.roles):
                return "other"
            return "lists" if self.traits.get(LISTS) else "compared"
        return _OF_CONVERSATIONS.get(self.roles[0], "pair" if len(self.roles) > 1 else "other")

    def column(self, role: str) -> str:
        """Return the column of a role, under its own name where none is known."""
        return self.columns.get(role, role)

    @property
    def is_pairs(self) -> bool:
        """Whether a better and a worse answer are compared."""
        return self.task == "preference"


QUESTIONS = 3
"""How many questions of the data are asked before and after, where a person gives none."""
SPARED_SHARE = 0.05
"""Rows are held out for the questions alone only if they are at most this share of all."""


FEW_ROWS = 1_000
"""Rows below which a twentieth would be too few to judge by."""
MOST_HELD_OUT = 1_000
"""Held-out rows above which more say no more."""


def share_to_hold_out(rows: int) -> float:
    """Return the share of rows to evaluate on: a tenth of few, a twentieth of more, and at most 1,000 of them."""
    return 0.1 if rows < FEW_ROWS else min(0.05, MOST_HELD_OUT / rows)


def num_spared(rows: int) -> int:
    """Return how many rows are not learned because their questions are asked; none where they would be missed."""
    return QUESTIONS if SPARED_SHARE * rows >= QUESTIONS else 0


def num_held_out(rows: int, share: float) -> int:
    """Return how many rows are evaluated on: about a share of all, at least one."""
    return max(1, round(share * rows)) if share else 0


def num_learned(rows: int, eval_split: float, *, asks_data: bool) -> int:
    """Return how many rows a run learns, as far as each has a question of its own.

    Args:
        rows: All rows that can be trained on.
        eval_split: The share that is evaluated on.
        asks_data: Whether questions of the data are asked before and after: of rows to evaluate on, if there are any.
    """
    held_out = num_held_out(rows, eval_split)
    return rows - (held_out or (num_spared(rows) if asks_data else 0))
