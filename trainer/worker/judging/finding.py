"""Rows of which something is found: the better answer of two, the text that belongs to another, a class or tags."""

import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

import torch

from trainer.results import judgement
from trainer.results.chat import BASE, TUNED
from trainer.results.judgement import Compared
from trainer.worker.judging.judge import Judge, Row
from trainer.worker.judging.reading import after, inputs_of, losses, require_finite

_TOGETHER = 8
"""Rows whose texts are read at the same time."""


class Pairs(Judge):
    """Pairs of answers: how often the better one is the likelier."""

    def __init__(self, tokenizer: Any, rows: Sequence[Row]) -> None:
        super().__init__(tokenizer, rows)
        self._right: dict[str, list[float]] = {}

    def read(self, voice: str, model: Any, stop: Event) -> Iterator[int]:  # noqa: ARG002 - as the others
        """Note for each pair whether the better answer is the likelier; its loss is summed over its tokens."""
        self._right[voice] = []
        answers = (after(row["prompt_ids"], row[name]) for row in self.rows for name in ("chosen_ids", "rejected_ids"))
        # TRL compares pairs by a chunked loss whatever the plan says.
        each = losses(model, answers, chunked=True)
        for better, worse in zip(each, each, strict=True):
            self._right[voice].append(float(better < worse))
            yield 1

    def compared(self) -> list[Compared]:
        """Return how often the better answer was the likelier."""
        label = "Pairs whose better answer is the likelier"
        return [judgement.scores("preferred", label, self._right[BASE], self._right[TUNED])]

    def told(self) -> list[dict[str, Any]]:
        """Return each question, and which model found its better answer the likelier."""
        return [
            {"question": row["question"], "base_right": base, "tuned_right": tuned}
            for row, base, tuned in zip(self.rows, self._right[BASE], self._right[TUNED], strict=True)
        ]


class Related(Judge):
    """Texts that belong together: at which place the right one is found among those of all rows."""

    def __init__(self, tokenizer: Any, rows: Sequence[Row]) -> None:
        super().__init__(tokenizer, rows)
        self._places: dict[str, Any] = {}

    def read(self, voice: str, model: Any, stop: Event) -> Iterator[int]:  # noqa: ARG002 - as the others
        """Note for each row at which place its right text is found."""
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
        """Return how often the right text came first, and the mean of one over its place."""
        places = (self._places[BASE], self._places[TUNED])
        return [
            judgement.scores("accuracy", "Found first", *((found == 1).double().tolist() for found in places)),
            judgement.scores("mrr", "MRR@10", *(self._reciprocal(found).tolist() for found in places)),
        ]

    def told(self) -> list[dict[str, Any]]:
        """Return each question, and at which place each model found its text."""
        places = zip(self.rows, self._places[BASE].tolist(), self._places[TUNED].tolist(), strict=True)
        return [{"question": row["question"], "base_place": base, "tuned_place": tuned} for row, base, tuned in places]


class Labels(Judge):
    """Texts with a class, or words with tags: how many are found, beside always saying the commonest."""

    voices = (TUNED,)

    def __init__(self, tokenizer: Any, rows: Sequence[Row]) -> None:
        super().__init__(tokenizer, rows)
        self._found: list[list[str]] = []
        self._wanted = [_labels(row) for row in rows]

    def read(self, voice: str, model: Any, stop: Event) -> Iterator[int]:  # noqa: ARG002 - as the others
        """Note the class of each row, or the tags of its words."""
        self._found = []
        for row in self.rows:
            with torch.no_grad():
                logits = model(**inputs_of(model, row)).logits
            require_finite("output", float(logits.float().abs().max()))
            # Those of a prompt that was learned come first.
            best = logits.reshape(-1, logits.shape[-1])[-len(_labels(row)) :].argmax(-1).tolist()
            self._found.append([str(model.config.id2label[number]) for number in best])
            yield 1

    def compared(self) -> list[Compared]:
        """Return how often the model was right, beside always saying the commonest."""
        commonest = Counter(label for labels in self._wanted for label in labels if label).most_common(1)[0][0]
        always = [[commonest] * len(labels) for labels in self._wanted]
        guessed, found = (
            [_share_right(labels, said) for labels, said in zip(self._wanted, side, strict=True)]
            for side in (always, self._found)
        )
        what = f"guess that always says {commonest}"
        return [judgement.scores("accuracy", "Accuracy", guessed, found, of=what)]

    def told(self) -> list[dict[str, Any]]:
        """Return each text with what it is, and how much of that was found."""
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
