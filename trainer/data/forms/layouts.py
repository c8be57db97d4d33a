"""The layouts of training data: which columns hold what is said by whom, and what each says.

What each layout is read from stands beside it in ``LAYOUTS``; the first whose columns a row has is taken.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specs import DataError
from trainer.data.forms import messages, preferences, readers, tagged
from trainer.data.forms.columns import proposed_columns
from trainer.data.row import Row

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


_AROUND = (*readers.SYSTEM, "tools", "context", "input", "history")
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
        read=readers.pair(question, answer),
        source=source,
    )


_CONVERSATIONS = (
    Layout(
        name="messages",
        task="answers",
        roles=("messages",),
        optional=(*readers.SYSTEM, "tools"),
        read=readers.conversation("messages"),
        source=f"OpenAI, fine-tuning; {_TRL}",
    ),
    Layout(
        name="ShareGPT",
        task="answers",
        roles=("conversations",),
        optional=(*readers.SYSTEM, "tools"),
        read=readers.conversation("conversations"),
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
        read=readers.translated,
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
            read=readers.compared(question),
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
                read=readers.scored_pair(asked, scored),
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
                read=readers.belonging(anchor, positive, more or (first,)),
                source=source,
            )
        yield Layout(
            name=f"{anchor} and {positive}",
            task="related",
            roles=(anchor, positive),
            read=readers.belonging(anchor, positive, ()),
            source=source,
        )


_SCORED_TEXTS = tuple(
    Layout(
        name=f"{first}, {second} and {score}",
        task="similarity",
        roles=(first, second, score),
        read=readers.alike(first, second, score),
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
            read=readers.tagged_words(words, tags),
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
        read=readers.classified("premise", "hypothesis", label="label"),
        source="SNLI, MultiNLI",
    ),
    Layout(
        name="pair of sentences and label",
        task="classification",
        roles=("sentence1", "sentence2", "label"),
        optional=("idx",),
        read=readers.classified("sentence1", "sentence2", label="label"),
        source="GLUE",
    ),
    Layout(
        name="text and label_text",
        task="classification",
        roles=("text", "label_text"),
        optional=("label",),
        read=readers.classified("text", label="label_text"),
        source="SetFit's data sets",
    ),
    *(
        Layout(
            name=f"{words} and {label}",
            task="classification",
            roles=(words, label),
            read=readers.classified(words, label=label),
            source="transformers, text classification",
        )
        for words in ("text", "sentence")
        for label in ("label", "labels", "category", "class", "sentiment")
    ),
    *_SCORED_TEXTS,
    *_belonging_layouts(),
    *_TEXT_TO_TEXT,
    Layout(name="text", task="text", roles=("text",), read=readers.raw_text, source=_TRL),
)
"""Every layout that is recognised, the more specific first."""

ROLES = frozenset(name for layout in LAYOUTS for name in (*layout.roles, *layout.optional))
"""Every role that a column can have."""
