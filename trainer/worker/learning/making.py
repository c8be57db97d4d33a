"""Makes the rows that a trainer takes of an example: tokens with labels, a pair, a class, or tags."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow

from specs import FinetunePlan
from specs.portable.passages import passage_parts
from specs.portable.tags import tagged_tokens
from specs.portable.targets import sides_tokens
from trainer.data.examples import Example, related_of, texts_of
from trainer.data.forms import classes, related, tagged
from trainer.data.forms.passages import require_answer
from trainer.data.rendering import Renderer, compared, labelled
from trainer.data.row import UnreadableError

ASIDE = {"group": pyarrow.int64(), "question": pyarrow.string(), "answer": pyarrow.string(), "row": pyarrow.int64()}
"""Columns that are not read by the trainers: what may not be torn apart, what may be asked before and after, and the
number in the file."""

_NUMBERS = pyarrow.list_(pyarrow.int32())
_LENGTH = {"length": pyarrow.int32(), **ASIDE}
_READ = {"input_ids": _NUMBERS, "token_type_ids": _NUMBERS}
_TOKENS = pyarrow.schema({"input_ids": _NUMBERS, "labels": _NUMBERS, **_LENGTH})
_SCHEMAS = {
    "chosen_ids": pyarrow.schema(dict.fromkeys(("prompt_ids", "chosen_ids", "rejected_ids"), _NUMBERS) | ASIDE),
    "label": pyarrow.schema({**_READ, "label": pyarrow.string(), **_LENGTH}),
    "start_positions": pyarrow.schema(
        {
            **_READ,
            **dict.fromkeys(("start_positions", "end_positions"), pyarrow.int32()),
            **dict.fromkeys(("starts", "ends"), _NUMBERS),
            "context": pyarrow.string(),
            "answers": pyarrow.list_(pyarrow.string()),
            "number": pyarrow.int64(),
            **_LENGTH,
        }
    ),
    "tags": pyarrow.schema({**_READ, "tags": pyarrow.list_(pyarrow.string()), **_LENGTH}),
    "texts": pyarrow.schema({"texts": pyarrow.list_(_NUMBERS), "score": pyarrow.float64(), **_LENGTH}),
}
"""What is written of rows, by a column that only these have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What one example becomes."""

    rows: tuple[Mapping[str, Any], ...]
    question: str = ""
    """What the model may be asked of it before and after."""
    answer: str = ""
    """What the data has for that."""
    texts: int = 1
    """How many texts a model with a head reads together."""
    left_out: tuple[str, ...] = ()
    """What is not read of it."""


@dataclass(frozen=True, slots=True)
class RowMaker:
    """Makes the rows of a plan's examples."""

    plan: FinetunePlan
    tokenizer: Any
    renderer: Renderer
    prompts: Mapping[str, str] = field(default_factory=dict)
    """What the model puts before a text that is to be embedded, by its kind."""

    def made(self, example: Example) -> Made:
        """Return the rows of an example.

        Raises:
            UnreadableError: If nothing can be learned of it.
        """
        make = _OF_TASK.get(self.plan.task_type) or (_pair if example.rejected else _answer)
        return make(self, example)


def schema_of(row: Mapping[str, Any]) -> Any:
    """Return the columns of rows like one."""
    return next((schema for column, schema in _SCHEMAS.items() if column in row), _TOKENS)


def _answer(maker: RowMaker, example: Example) -> Made:
    text = maker.renderer.rendered(example)
    longest = maker.plan.max_length
    row = labelled(text, maker.tokenizer, max_length=longest, whole=not maker.plan.completion_only_loss)
    if row is None:
        raise UnreadableError(f"its answer begins after max_length ({longest} tokens)")
    return Made(rows=(_counted(row),), question=_question(example), answer=_wanted(example), left_out=text.left_out)


def _pair(maker: RowMaker, example: Example) -> Made:
    better, worse = maker.renderer.both(example)
    pair = compared(better, worse, maker.tokenizer)
    if len(pair["prompt_ids"]) >= maker.plan.max_length:
        raise UnreadableError(f"its answer begins after max_length ({maker.plan.max_length} tokens)")
    return Made(rows=(pair,), question=_question(example), answer=_wanted(example))


def _class(maker: RowMaker, example: Example) -> Made:
    texts = texts_of(example)
    read = classes.tokens(texts, maker.tokenizer, max_length=maker.plan.max_length)
    row = _counted({**read, "label": example.label})
    return Made(rows=(row,), question=classes.shown(texts), answer=str(example.label), texts=len(texts))


def _tags(maker: RowMaker, example: Example) -> Made:
    row = tagged_tokens(example.words, example.tags, maker.tokenizer, maker.plan.max_length)
    if not any(row["tags"]):
        raise UnreadableError("has no word that the tokenizer reads")
    answer = tagged.told(example.words, example.tags)
    return Made(rows=(_counted(row),), question=" ".join(example.words), answer=answer)


def _passage(maker: RowMaker, example: Example) -> Made:
    """Return the parts in which a context is read, each with what an evaluation needs to know of the whole."""
    passage = example.passage
    if passage is None:
        raise UnreadableError("has no answers with text and answer_start beside its context")
    require_answer(passage)
    whole = {
        "context": passage.context,
        "answers": [said for _, said in passage.answers],
        "number": example.row,
    }
    try:
        parts = passage_parts(
            passage.question, passage.context, passage.answers, maker.tokenizer, maker.plan.max_length
        )
        rows = tuple(_counted({**part, **whole}) for part in parts)
    except ValueError as error:
        raise UnreadableError(str(error)) from error
    asked = classes.shown((passage.question, passage.context))
    return Made(rows=rows, question=asked, answer=passage.answers[0][1], texts=2)


def _target(maker: RowMaker, example: Example) -> Made:
    asked, answer = maker.renderer.sides(example)
    row = sides_tokens(asked, answer, maker.tokenizer, maker.plan.max_length)
    longest = max(len(row["input_ids"]), len(row["labels"]))
    return Made(rows=({**row, "length": longest},), question=_question(example), answer=answer)


def _related(maker: RowMaker, example: Example) -> Made:
    """Return the tokens of each text of a row, all of which are compared."""
    found = related_of(example)
    wanted = maker.plan.num_negatives
    if len(found.negatives) < wanted:
        raise UnreadableError(f"has {len(found.negatives)} wrong texts, fewer than num_negatives ({wanted})")
    loss = maker.plan.embedding_loss
    if (loss == "CoSENTLoss") != (found.score is not None):
        raise UnreadableError(f"has {'no' if found.score is None else 'a'} score, and embedding_loss is {loss}")
    read = related.prompted(found._replace(negatives=found.negatives[:wanted]), maker.prompts)
    tokens = [
        list(maker.tokenizer(text, truncation=True, max_length=maker.plan.max_length)["input_ids"]) for text in read
    ]
    row = {"texts": tokens, "score": found.score, "length": max(map(len, tokens))}
    asked = classes.shown((found.anchor, found.positive))
    left_out = ("wrong texts beyond num_negatives",) if len(found.negatives) > wanted else ()
    answer = "" if found.score is None else f"{found.score:g}"
    return Made(rows=(row,), question=asked, answer=answer, texts=2, left_out=left_out)


_OF_TASK: Mapping[str, Callable[[RowMaker, Example], Made]] = {
    "SEQ_CLS": _class,
    "TOKEN_CLS": _tags,
    "QUESTION_ANS": _passage,
    "SEQ_2_SEQ_LM": _target,
    "FEATURE_EXTRACTION": _related,
}
"""How the rows of a task are made, where they are not what a language model reads."""


def _counted(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**row, "length": len(row["input_ids"])}


def _question(example: Example) -> str:
    """Return the first question of a conversation; plain text has none."""
    return next((turn.content for turn in example.turns if turn.role == "user"), "")


def _wanted(example: Example) -> str:
    """Return the answer to the first question of a conversation, of a pair the better one; plain text has none."""
    turns = iter((*example.turns, *example.chosen))
    next((turn for turn in turns if turn.role == "user"), None)
    return next((turn.content for turn in turns if turn.role == "assistant"), "")
