"""The layouts of training data: which columns hold what is said by whom, and what each says.

What each layout is read from stands beside it in ``LAYOUTS``; the first whose columns a row has is taken.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from specs import DataError
from trainer.data.forms import classes, messages, passages, preferences, related, tagged
from trainer.data.forms.columns import proposed_columns
from trainer.data.forms.messages import Turn
from trainer.data.forms.preferences import Scored
from trainer.data.row import Row, UnreadableError

_LONGEST_HINT = 66
"""Characters of named columns that a sentence has room for; more would have to be cut, and a cut name names nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way in which data sets arrange their columns."""

    name: str
    task: str
    roles: tuple[str, ...]
    """The columns that it needs."""
    optional: tuple[str, ...] = ()
    read: Callable[[Row], Mapping[str, Any]]
    """Gives the fields of the example of a row whose columns have the names of the roles."""
    source: str
    """Whose documentation describes it."""

    def fits(self, row: Row) -> bool:
        """Return whether a row has its columns, each with something in it."""
        if self.task == "tags" and not tagged.is_tagged(*(row.get(role) for role in self.roles)):
            return False
        if self.roles == ("translation",) and not isinstance(messages.parsed(row.get("translation")), Mapping):
            return False
        return all(row.get(role) not in (None, "") for role in self.roles) and (
            not {"messages", "conversations"} & set(self.roles)
            or all(messages.is_messages(row[role]) for role in self.roles if role in {"messages", "conversations"})
        )


def recognised_layout(row: Row, path: str) -> Layout:
    """Return the layout whose columns a row has.

    Raises:
        DataError: If no known layout fits; the columns can then be named by hand.
    """
    for layout in LAYOUTS:
        if layout.fits(row):
            return layout
    likely = ", ".join(f"{role}={column}" for role, column in proposed_columns(row).items())
    raise DataError(
        Path(path).name,
        "has the columns of no known layout, such as messages, prompt + completion, or prompt + chosen + rejected",
        ", ".join(sorted(map(str, row)))[:80],
        f"Say which is which, such as {likely}" if 0 < len(likely) <= _LONGEST_HINT else "Rename the columns",
    )


def _conversation(role: str) -> Callable[[Row], Mapping[str, Any]]:
    def read(row: Row) -> Mapping[str, Any]:
        return {"turns": _with_system(messages.turns(row[role]), row), "tools": messages.tools(row.get("tools"))}

    return read


def _with_system(turns: tuple[Turn, ...], row: Row) -> tuple[Turn, ...]:
    """Return turns that begin with what a column says to the system."""
    said = {messages.text(row[name], name) for name in SYSTEM if row.get(name) not in (None, "")}
    if not said:
        return turns
    if len(said) > 1:
        raise UnreadableError(f"has two system columns that differ: {' and '.join(SYSTEM)}")
    (system,) = said
    if turns[0].role == "system":
        if turns[0].content.strip() == system.strip():
            return turns
        raise UnreadableError("has a system column and another system message")
    return (Turn(role="system", content=system), *turns)


def _pair(question: str, answer: str) -> Callable[[Row], Mapping[str, Any]]:
    """Return what reads a question and its answer, each as text or as messages."""

    def read(row: Row) -> Mapping[str, Any]:
        answered = _answered(row.get(answer), answer)
        asked = _asked(row, question)
        if messages.is_messages(row.get(question)):  # TRL: of a prompt and its completion, the completion is learned
            asked = tuple(replace(turn, learned=turn.role != "assistant") for turn in asked)
        return {
            "turns": (*_with_system(asked, row), *answered),
            "tools": messages.tools(row.get("tools")),
            "unused": (f"{answer} but the first",) if _has_other_answers(row.get(answer)) else (),
            **({"passage": passages.passage(row)} if answer == "answers" else {}),
        }

    return read


def _asked(row: Row, question: str) -> tuple[Turn, ...]:
    """Return what came before an answer: earlier turns, and the question with what it is about."""
    return (*_history(row.get("history")), *_question(row, question))


def _question(row: Row, question: str) -> tuple[Turn, ...]:
    value = row.get(question)
    if messages.is_messages(value):
        _require_nothing_around(row, question)
        return messages.turns(value)
    words = messages.text(value, question)
    # What a task is about follows an instruction, as in Alpaca and Dolly, and comes before a question, as in SQuAD.
    around = [messages.text(row[name], name) for name in ("input", "context") if row.get(name) not in (None, "", [])]
    parts = [words, *around] if question == "instruction" else [*around, words]
    return (Turn(role="user", content="\n\n".join(part for part in parts if part.strip())),)


def _require_nothing_around(row: Row, question: str) -> None:
    """Refuse what would have to stand beside a question that is a conversation."""
    beside = next((name for name in ("input", "context") if row.get(name) not in (None, "", [])), None)
    if beside is not None:
        raise UnreadableError(f"has {question} as a conversation and {beside} beside it, which has no place in it")


def _has_other_answers(value: Any) -> bool:
    """Return whether SQuAD's answers differ, of which the first is learned."""
    found = passages.answers_of(value)
    return found is not None and len(set(map(str, found[0]))) > 1


def _answered(value: Any, name: str) -> tuple[Turn, ...]:
    """Return an answer: text, messages, or the first of SQuAD's answers."""
    if messages.is_messages(value):
        return messages.turns(value)
    found = messages.parsed(value) if name == "answers" else value
    if not isinstance(found, str) and (several := passages.answers_of(found)) is not None:
        found = next(iter(several[0]), None)
    if found is None or found == "" or found != found:  # not a number is unequal to itself
        raise UnreadableError(f"{name} is empty")
    if isinstance(found, bool | int | float):
        found = json.dumps(found)
    return (Turn(role="assistant", content=messages.text(found, name)),)


def _history(value: Any) -> Iterator[Turn]:
    """Yield earlier questions and answers: a list of pairs, as in LLaMA-Factory."""
    for pair in messages.parsed(value) or ():
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise UnreadableError("history must be a list of pairs of question and answer")
        yield Turn(role="user", content=messages.text(pair[0], "history"))
        yield Turn(role="assistant", content=messages.text(pair[1], "history"))


def _translated(row: Row) -> Mapping[str, Any]:
    """Return a text and its translation, in the order in which the row holds the two languages."""
    found = messages.parsed(row.get("translation"))
    if not isinstance(found, Mapping) or len(found) != 2:
        raise UnreadableError("translation must hold a text in each of two languages")
    first, second = (messages.text(said, f"translation.{language}") for language, said in found.items())
    if not first.strip():
        raise UnreadableError(f"translation.{next(iter(found))} is empty")
    return {"turns": (Turn(role="user", content=first), Turn(role="assistant", content=second))}


def _raw_text(row: Row) -> Mapping[str, Any]:
    return {"turns": (Turn(role="text", content=messages.text(row["text"], "text")),)}


def _classified(*texts: str, label: str) -> Callable[[Row], Mapping[str, Any]]:
    def read(row: Row) -> Mapping[str, Any]:
        said = tuple(Turn(role="text", content=messages.text(row.get(name), name)) for name in texts)
        return {"turns": said, "label": classes.class_name(row.get(label), label)}

    return read


def _tagged(words: str, tags: str) -> Callable[[Row], Mapping[str, Any]]:
    def read(row: Row) -> Mapping[str, Any]:
        said = tagged.words_of(row.get(words), words)
        found = tagged.tags_of(row.get(tags), tags, words=len(said))
        return {"turns": (Turn(role="text", content=" ".join(said)),), "words": said, "tags": found}

    return read


def _belonging(anchor: str, positive: str, wrong: Sequence[str]) -> Callable[[Row], Mapping[str, Any]]:
    """Return what reads a text, its match and wrong texts beside it."""

    def read(row: Row) -> Mapping[str, Any]:
        right, *more = related.passages(row.get(positive), positive)
        said = (messages.text(row.get(anchor), anchor), right)
        return {
            "turns": tuple(Turn(role="text", content=words) for words in said),
            "negatives": tuple(words for words in related.negatives(row, wrong) if words.strip()),
            "unused": (f"{positive} but the first",) if more else (),
        }

    return read


def _alike(first: str, second: str, score: str) -> Callable[[Row], Mapping[str, Any]]:
    def read(row: Row) -> Mapping[str, Any]:
        said = tuple(Turn(role="text", content=messages.text(row.get(name), name)) for name in (first, second))
        return {"turns": said, "score": related.score_of(row.get(score), score)}

    return read


def _marked(answers: Layout, mark: str) -> Layout:
    """Return a layout of answers with a column that says whether each is good."""

    def read(row: Row) -> Mapping[str, Any]:
        values = dict(answers.read(row))
        *asked, last = values.pop("turns")
        return {**values, "turns": tuple(asked), "chosen": (last,), "label": preferences.is_good(row.get(mark), mark)}

    return Layout(
        name=f"{answers.name} with {mark}",
        task="unpaired",
        roles=(*answers.roles, mark),
        optional=answers.optional,
        read=read,
        source="TRL, dataset formats, unpaired preference; LLaMA-Factory, data/README.md, KTO",
    )


def _compared(question: str) -> Callable[[Row], Mapping[str, Any]]:
    """Return what reads a pair; without the name of a question, the two answers begin with it."""

    def read(row: Row) -> Mapping[str, Any]:
        value = row.get(question)
        if isinstance(value, str) and preferences.is_dialogue(value):
            _require_nothing_around(row, question)
            before = (*_history(row.get("history")), *preferences.dialogue(messages.text(value, question)))
        else:
            before = _asked(row, question) if question else tuple(_history(row.get("history")))
        asked, chosen, rejected = preferences.pair(row, before)
        return {
            "turns": _with_system(asked, row) if asked else (),
            "chosen": chosen,
            "rejected": rejected,
            "tools": messages.tools(row.get("tools")),
        }

    return read


def _scored(question: str, scored: Scored) -> Callable[[Row], Mapping[str, Any]]:
    def read(row: Row) -> Mapping[str, Any]:
        # SHP's history is the question itself.
        asked = _question(row, question) if question == "history" else _asked(row, question)
        chosen, rejected = preferences.ranked(row, scored)
        return {
            "turns": _with_system(asked, row),
            "chosen": chosen,
            "rejected": rejected,
            "tools": messages.tools(row.get("tools")),
        }

    return read


SYSTEM = ("system", "system_prompt")
"""Columns that hold what is said to the system."""

_AROUND = (*SYSTEM, "tools", "context", "input", "history")
_TRL = "TRL, dataset formats and types"
_FACTORY = "LLaMA-Factory, data/README.md"
_AXOLOTL = "Axolotl, dataset formats"
_SBERT = "sentence-transformers, dataset overview"
_SCORES = ("score_chosen", "score_rejected")


def _answers(name: str, question: str, answer: str, source: str) -> Layout:
    return Layout(
        name=name,
        task="answers",
        roles=(question, answer),
        optional=_AROUND,
        read=_pair(question, answer),
        source=source,
    )


_CONVERSATIONS = (
    Layout(
        name="messages",
        task="answers",
        roles=("messages",),
        optional=(*SYSTEM, "tools"),
        read=_conversation("messages"),
        source=f"OpenAI, fine-tuning; {_TRL}",
    ),
    Layout(
        name="ShareGPT",
        task="answers",
        roles=("conversations",),
        optional=(*SYSTEM, "tools"),
        read=_conversation("conversations"),
        source=f"{_FACTORY}, ShareGPT format",
    ),
)
_PAIRS = (
    _answers("alpaca", "instruction", "output", f"Stanford Alpaca; {_FACTORY}"),
    _answers("prompt and completion", "prompt", "completion", _TRL),
    _answers("prompt and response", "prompt", "response", _AXOLOTL),
    _answers("question and answer", "question", "answer", f"{_AXOLOTL}, alpaca_chat.load_qa"),
    _answers("instruction and response", "instruction", "response", "Databricks Dolly 15k"),
    _answers("question and response", "question", "response", "OpenOrca"),
    _answers("query and response", "query", "response", "MetaMathQA"),
    _answers("question and answers", "question", "answers", "SQuAD"),
    _answers("query and answer", "query", "answer", f"Natural Questions in {_SBERT}"),
    _answers("problem and solution", "problem", "solution", "NuminaMath"),
)


_TEXT_TO_TEXT = (
    *(
        _answers(f"{text} and {summary}", text, summary, f"transformers, summarization; {source}")
        for text, summary, source in (
            ("document", "summary", "XSum"),
            ("article", "highlights", "CNN/DailyMail"),
            ("dialogue", "summary", "SAMSum"),
            ("text", "summary", "BillSum"),
        )
    ),
    _answers("source and target", "source", "target", "transformers, translation and summarization"),
    Layout(
        name="translation",
        task="answers",
        roles=("translation",),
        read=_translated,
        source="transformers, translation; datasets, Translation; OPUS Books, WMT",
    ),
)
"""Texts and what is made of them, as encoders with a decoder learn it; a column with a class says more."""


def _compared_layouts() -> Iterable[Layout]:
    for question in ("prompt", "question", "instruction", "query", "messages", "conversations", ""):
        around = _AROUND if question else tuple(name for name in _AROUND if name not in {"context", "input"})
        yield Layout(
            name="preference",
            task="preference",
            roles=(*filter(None, [question]), "chosen", "rejected"),
            optional=(*around, *_SCORES),
            read=_compared(question),
            source=f"{_TRL}; Anthropic HH-RLHF; {_FACTORY}, preference",
        )


def _scored_layouts() -> Iterable[Layout]:
    for asked in ("prompt", "question", "instruction", "history"):
        for scored in preferences.SCORED:
            yield Layout(
                name="scored pair",
                task="preference",
                roles=(asked, *scored.answers, *scored.marks),
                optional=tuple(name for name in _AROUND if name != asked),
                read=_scored(asked, scored),
                source=scored.source,
            )


_MATCHES = (
    ("anchor", "positive", "negative", _SBERT),
    ("query", "positive", "negative", _SBERT),
    ("query", "pos", "neg", "FlagEmbedding, fine-tuning"),
    ("query", "positive_passages", "negative_passages", "Tevatron, data"),
    ("query", "passage", "negative", "MS MARCO; sentence-transformers, msmarco"),
    ("query", "document", "negative", _SBERT),
    ("question", "passage_text", "", "MIRIAD"),
    ("sentence1", "sentence2", "", _SBERT),
)
_WRONG = tuple(f"negative_{number}" for number in range(1, 9))
"""Columns of several wrong texts, as sentence-transformers' mining of hard negatives writes them."""


def _belonging_layouts() -> Iterable[Layout]:
    for anchor, positive, negative, source in _MATCHES:
        for first in filter(None, (negative, negative and _WRONG[0])):
            more = _WRONG if first == _WRONG[0] else ()
            yield Layout(
                name=f"{anchor}, {positive} and {first}",
                task="related",
                roles=(anchor, positive, first),
                optional=more[1:],
                read=_belonging(anchor, positive, more or (first,)),
                source=source,
            )
        yield Layout(
            name=f"{anchor} and {positive}",
            task="related",
            roles=(anchor, positive),
            read=_belonging(anchor, positive, ()),
            source=source,
        )


_SCORED_TEXTS = tuple(
    Layout(
        name=f"{first}, {second} and {score}",
        task="similarity",
        roles=(first, second, score),
        read=_alike(first, second, score),
        source=f"{_SBERT}; STS benchmark",
    )
    for first, second in (("sentence1", "sentence2"), ("text1", "text2"), ("sentence_A", "sentence_B"))
    for score in ("score", "similarity_score", "similarity", "relatedness_score")
)


LAYOUTS = (
    *(
        Layout(
            name=f"{words} and {tags}",
            task="tags",
            roles=(words, tags),
            read=_tagged(words, tags),
            source="transformers, token classification; CoNLL-2003",
        )
        for words in ("tokens", "words")
        for tags in ("ner_tags", "tags", "labels", "pos_tags")
    ),
    *_compared_layouts(),
    *_scored_layouts(),
    *(_marked(layout, mark) for mark in ("label", "kto_tag") for layout in (*_CONVERSATIONS, *_PAIRS)),
    *_CONVERSATIONS,
    *_PAIRS,
    Layout(
        name="pair of texts and label",
        task="classification",
        roles=("premise", "hypothesis", "label"),
        read=_classified("premise", "hypothesis", label="label"),
        source="SNLI, MultiNLI",
    ),
    Layout(
        name="pair of sentences and label",
        task="classification",
        roles=("sentence1", "sentence2", "label"),
        optional=("idx",),
        read=_classified("sentence1", "sentence2", label="label"),
        source="GLUE",
    ),
    Layout(
        name="text and label_text",
        task="classification",
        roles=("text", "label_text"),
        optional=("label",),
        read=_classified("text", label="label_text"),
        source="SetFit's data sets",
    ),
    *(
        Layout(
            name=f"{words} and {label}",
            task="classification",
            roles=(words, label),
            read=_classified(words, label=label),
            source="transformers, text classification",
        )
        for words in ("text", "sentence")
        for label in ("label", "labels", "category", "class", "sentiment")
    ),
    *_SCORED_TEXTS,
    *_belonging_layouts(),
    *_TEXT_TO_TEXT,
    Layout(name="text", task="text", roles=("text",), read=_raw_text, source=_TRL),
)
"""Every layout that is recognised, the more specific first."""

ROLES = frozenset(name for layout in LAYOUTS for name in (*layout.roles, *layout.optional))
"""Every role that a column can have."""
