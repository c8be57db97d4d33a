"""What two models make of the same rows: losses, answers, classes and tags, kept until they can be compared."""

import importlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from specs import FinetunePlan
from specs.portable.passages import plain_words, word_f1
from specs.portable.targets import rouge
from trainer.failure import NotFiniteError
from trainer.results import judgement
from trainer.results.answers import end_tokens, generated_each, positions_left
from trainer.results.chat import BASE, TUNED
from trainer.results.judgement import Compared

_IGNORED = -100
_CHUNK = 256
"""Tokens whose logits are made 32 bits wide at once."""
_TOGETHER = 8
"""Answers that are written at the same time, at most."""
_LONGEST_ANSWER = 128
_ROOM = 16
"""Tokens that an answer may have beyond twice those of the one in the data."""

Row = Mapping[str, Any]
_Asked = tuple[list[int], list[int]]
"""What is read of a row before its first answer, and that answer."""


class _Said(NamedTuple):
    """An answer that a model wrote."""

    words: str
    is_whole: bool
    """Whether it ended by itself."""

    @property
    def shown(self) -> str:
        """The answer, with a sign where it was cut."""
        return self.words if self.is_whole else f"{self.words} ...".lstrip()


class Judge:
    """Reads rows with one model after the other."""

    voices: Sequence[str] = (TUNED, BASE)
    """The models that are needed, in order: of a fully tuned one, changing takes a load from disk."""

    def __init__(self, tokenizer: Any, rows: Sequence[Row]) -> None:
        self.tokenizer, self.rows = tokenizer, rows

    @property
    def work(self) -> int:
        """How many rows and answers one model has."""
        return len(self.rows)

    def read(self, voice: str, model: Any, stop: Event) -> Iterator[int]:
        """Let a model read everything, and yield how much was read since the last time."""
        raise NotImplementedError

    def compared(self) -> list[Compared]:
        """Return what both models were compared by, what decides first."""
        raise NotImplementedError

    def told(self) -> list[dict[str, Any]]:
        """Return what was found, row by row."""
        raise NotImplementedError


def judge_of(plan: FinetunePlan, tokenizer: Any, rows: Sequence[Row], *, answers: int, general: Sequence[str]) -> Judge:
    """Return the judge for a plan's task and its rows.

    Args:
        plan: The plan of the run.
        tokenizer: The one of its result.
        rows: Tokenized rows that were not learned, with their questions and answers.
        answers: Of how many rows the answers are written.
        general: Passages of general text.
    """
    if "chosen_ids" in rows[0]:
        return _Pairs(tokenizer, rows)
    if plan.task_type == "FEATURE_EXTRACTION":
        return _Related(tokenizer, rows)
    if plan.task_type in {"SEQ_CLS", "TOKEN_CLS"}:
        return _Labels(tokenizer, rows)
    is_decoder = plan.task_type == "CAUSAL_LM"
    judge = _Texts(tokenizer, rows, is_decoder=is_decoder, answers=answers, general=general if is_decoder else ())
    judge.most_tokens = plan.per_device_train_batch_size * plan.max_length
    return judge


def _is_same(right: str, said: str) -> float:
    return float(plain_words(right) == plain_words(said))


def _words_in_common(right: str, said: str) -> float:
    return word_f1(plain_words(right), plain_words(said))


def _longest_row(right: str, said: str) -> float:
    return rouge([right], [said])["rougeL"]


_SCORES: Mapping[str, tuple[str, Callable[[str, str], float]]] = {
    "exact_match": ("Exact match", _is_same),
    "f1": ("Words in common, F1", _words_in_common),
    "rougeL": ("ROUGE-L", _longest_row),
}
"""How near a written answer is to that of the data: label, and score from 0 to 1."""


class _Texts(Judge):
    """Rows of text: the loss of what is to be learned, and answers beside those of the data."""

    def __init__(
        self, tokenizer: Any, rows: Sequence[Row], *, is_decoder: bool, answers: int, general: Sequence[str]
    ) -> None:
        super().__init__(tokenizer, rows)
        self._is_decoder = is_decoder
        self.most_tokens = 0
        """Tokens of the questions that are read together, at most: training had memory for as many."""
        self._losses: dict[str, list[float]] = {}
        self._general: dict[str, list[float]] = {}
        self._said: dict[str, list[_Said]] = {}
        self._passages = [tokenizer(text, add_special_tokens=True)["input_ids"] for text in general]
        asked = [(number, found) for number, row in enumerate(rows) if (found := self._parts(row))]
        self._asked = dict(asked[:answers])

    @property
    def work(self) -> int:
        return len(self.rows) + len(self._passages) + len(self._asked)

    def read(self, voice: str, model: Any, stop: Event) -> Iterator[int]:
        self._losses[voice], self._general[voice], self._said[voice] = [], [], []
        for row in self.rows:
            self._losses[voice].append(_loss(model, row["input_ids"], row["labels"]))
            yield 1
        self._passages = [ids[: positions_left(model, 0)] for ids in self._passages]
        for ids in self._passages:
            self._general[voice].append(_loss(model, ids, ids))
            yield 1
        asked = [*self._asked.values()]
        for some in _batches(asked, self.most_tokens):
            self._said[voice] += _written(model, self.tokenizer, some, stop)
            yield len(some)

    def compared(self) -> list[Compared]:
        tokens = [self._num_learned(row) for row in self.rows]
        found = [judgement.losses("loss", "Loss per token", self._both(self._losses, tokens))]
        if self._asked:
            found += self._of_answers()
        if self._passages:
            lengths = [len(ids) - 1 for ids in self._passages]
            found.append(
                judgement.losses("general", "Loss per token of general text", self._both(self._general, lengths))
            )
        return found

    def told(self) -> list[dict[str, Any]]:
        said = {
            number: {"answer": self._decoded(right), "base": base.shown, "tuned": tuned.shown}
            for (number, (_, right)), base, tuned in zip(
                self._asked.items(), self._said[BASE], self._said[TUNED], strict=True
            )
        }
        return [
            {
                "question": row["question"] or "",
                "base_loss": self._losses[BASE][number],
                "tuned_loss": self._losses[TUNED][number],
                "tokens": self._num_learned(row),
                **said.get(number, {}),
            }
            for number, row in enumerate(self.rows)
        ]

    def _num_learned(self, row: Row) -> int:
        """Return of how many tokens the loss is; a decoder does not predict its first one."""
        return sum(label != _IGNORED for label in row["labels"][1 if self._is_decoder else 0 :])

    def _parts(self, row: Row) -> _Asked | None:
        """Return what is read of a row before its first answer, and that answer; None where nothing is asked."""
        ids, labels = row["input_ids"], row["labels"]
        if not self._is_decoder:
            return ids, labels
        first = next((place for place, label in enumerate(labels) if label != _IGNORED), len(labels))
        if not row["question"] or not 0 < first < len(labels):
            return None
        end = next((place for place in range(first, len(labels)) if labels[place] == _IGNORED), len(labels))
        return ids[:first], labels[first:end]

    def _both(self, losses: Mapping[str, Sequence[float]], tokens: Sequence[int]) -> list[tuple[float, float, int]]:
        return list(zip(losses[BASE], losses[TUNED], tokens, strict=True))

    def _of_answers(self) -> list[Compared]:
        wanted = [self._decoded(right) for _, right in self._asked.values()]
        return [
            judgement.scores(
                name,
                label,
                *(
                    [score(right, said.words) for right, said in zip(wanted, self._said[voice], strict=True)]
                    for voice in (BASE, TUNED)
                ),
            )
            for name, (label, score) in _SCORES.items()
        ]

    def _decoded(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()


class _Pairs(Judge):
    """Pairs of answers: how often the better one is the likelier."""

    def __init__(self, tokenizer: Any, rows: Sequence[Row]) -> None:
        super().__init__(tokenizer, rows)
        self._right: dict[str, list[float]] = {}

    def read(self, voice: str, model: Any, stop: Event) -> Iterator[int]:  # noqa: ARG002 - as the others
        self._right[voice] = []
        for row in self.rows:
            better, worse = (
                _loss_after(model, row["prompt_ids"], row[name]) for name in ("chosen_ids", "rejected_ids")
            )
            self._right[voice].append(float(better < worse))
            yield 1

    def compared(self) -> list[Compared]:
        label = "Pairs whose better answer is the likelier"
        return [judgement.scores("preferred", label, self._right[BASE], self._right[TUNED])]

    def told(self) -> list[dict[str, Any]]:
        return [
            {"question": row["question"], "base_right": base, "tuned_right": tuned}
            for row, base, tuned in zip(self.rows, self._right[BASE], self._right[TUNED], strict=True)
        ]


class _Related(Judge):
    """Texts that belong together: at which place the right one is found among those of all rows."""

    def __init__(self, tokenizer: Any, rows: Sequence[Row]) -> None:
        super().__init__(tokenizer, rows)
        self._places: dict[str, Any] = {}

    def read(self, voice: str, model: Any, stop: Event) -> Iterator[int]:  # noqa: ARG002 - as the others
        # It brings sentence-transformers, which takes seconds to import.
        likeness = importlib.import_module("trainer.worker.learning.likeness")
        vectors = []
        for first in range(0, len(self.rows), _TOGETHER):
            some = self.rows[first : first + _TOGETHER]
            vectors.append(likeness.vectors(model, likeness.Batches(self.tokenizer), some, batch_size=_TOGETHER))
            yield len(some)
        texts = [[tuple(text) for text in row["texts"]] for row in self.rows]
        columns = [torch.cat(parts) for parts in zip(*vectors, strict=True)]
        self._places[voice] = likeness.places(columns, texts)
        self._reciprocal = likeness.reciprocal

    def compared(self) -> list[Compared]:
        places = (self._places[BASE], self._places[TUNED])
        return [
            judgement.scores("accuracy", "Found first", *((found == 1).double().tolist() for found in places)),
            judgement.scores("mrr", "MRR@10", *(self._reciprocal(found).tolist() for found in places)),
        ]

    def told(self) -> list[dict[str, Any]]:
        places = zip(self.rows, self._places[BASE].tolist(), self._places[TUNED].tolist(), strict=True)
        return [{"question": row["question"], "base_place": base, "tuned_place": tuned} for row, base, tuned in places]


class _Labels(Judge):
    """Texts with a class, or words with tags: how many are found, beside always saying the commonest."""

    voices = (TUNED,)

    def __init__(self, tokenizer: Any, rows: Sequence[Row]) -> None:
        super().__init__(tokenizer, rows)
        self._found: list[list[str]] = []
        self._wanted = [_labels(row) for row in rows]

    def read(self, voice: str, model: Any, stop: Event) -> Iterator[int]:  # noqa: ARG002 - as the others
        self._found = []
        for row in self.rows:
            with torch.no_grad():
                logits = model(**_batch(model, row)).logits
            _require_finite("output", float(logits.float().abs().max()))
            # Those of a prompt that was learned come first.
            best = logits.reshape(-1, logits.shape[-1])[-len(_labels(row)) :].argmax(-1).tolist()
            self._found.append([str(model.config.id2label[number]) for number in best])
            yield 1

    def compared(self) -> list[Compared]:
        commonest = Counter(label for labels in self._wanted for label in labels if label).most_common(1)[0][0]
        always = [[commonest] * len(labels) for labels in self._wanted]
        guessed, found = (
            [_share_right(labels, said) for labels, said in zip(self._wanted, side, strict=True)]
            for side in (always, self._found)
        )
        what = f"guess that always says {commonest}"
        return [judgement.scores("accuracy", "Accuracy", guessed, found, of=what)]

    def told(self) -> list[dict[str, Any]]:
        return [
            {"question": row["question"], "answer": row["answer"], "tuned_right": _share_right(labels, said)}
            for row, labels, said in zip(self.rows, self._wanted, self._found, strict=True)
        ]


def _labels(row: Row) -> list[str]:
    """Return the class of a row, or the tags of its tokens; those that do not count are empty."""
    return [row["label"]] if "label" in row else list(row["tags"])


def _share_right(wanted: Sequence[str], said: Sequence[str]) -> float:
    counted = [(right, found) for right, found in zip(wanted, said, strict=True) if right]
    return sum(right == found for right, found in counted) / len(counted)


@torch.no_grad()
def _loss(model: Any, ids: Sequence[int], labels: Sequence[int]) -> float:
    """Return the loss of a row in nats, summed over what is to be learned of it.

    Raises:
        NotFiniteError: If it is none that can be compared.
    """
    read = torch.tensor([ids], device=model.device)
    right = torch.tensor(labels, device=model.device)
    if model.config.is_encoder_decoder:
        logits = model(input_ids=read, labels=right[None]).logits[0]
    else:
        # Those of a prompt that was learned come first.
        logits, right = model(input_ids=read, use_cache=False).logits[0, -len(ids) :][:-1], right[1:]
    parts = zip(logits.split(_CHUNK), right.split(_CHUNK), strict=True)
    loss = sum(
        float(functional.cross_entropy(some.float(), wanted, ignore_index=_IGNORED, reduction="sum"))
        for some, wanted in parts
    )
    _require_finite("loss", loss)
    return loss


def _require_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        way_out = "Train a new run that computes in bfloat16 or float32"
        raise NotFiniteError(f"{name} of a row", "must be a finite number in both models", value, way_out)


def _loss_after(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    return _loss(model, [*prompt, *answer], [*([_IGNORED] * len(prompt)), *answer])


def _batch(model: Any, row: Row) -> dict[str, torch.Tensor]:
    names = (name for name in ("input_ids", "token_type_ids") if row.get(name) is not None)
    return {name: torch.tensor([row[name]], device=model.device) for name in names}


def _batches(asked: Sequence[_Asked], most_tokens: int) -> Iterator[Sequence[_Asked]]:
    """Yield the questions that are read together: at least one, padded to the longest."""
    some: list[_Asked] = []
    for one in asked:
        longest = max(len(ids) for ids, _ in (*some, one))
        if some and (len(some) == _TOGETHER or longest * (len(some) + 1) > most_tokens):
            yield some
            some = []
        some.append(one)
    if some:
        yield some


def _written(model: Any, tokenizer: Any, some: Sequence[_Asked], stop: Event) -> list[_Said]:
    """Return the likeliest answers to several questions, written together, each no longer than it has reason to be."""
    longest = max(len(asked) for asked, _ in some)
    rooms = [min(_LONGEST_ANSWER, 2 * len(right) + _ROOM) for _, right in some]
    ids, mask = [], []
    for asked, _ in some:
        padding = longest - len(asked)
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
        _Said(tokenizer.decode(kept, skip_special_tokens=True).strip(), not set(ends).isdisjoint(kept.tolist()))
        for kept in (answer[:most] for answer, most in zip(said, rooms, strict=True))
    ]
