"""Answers that are few and short, such as the names of classes: which of them a model finds the likeliest."""

from collections.abc import Iterator, Sequence
from typing import Any

from trainer.results import judgement
from trainer.results.chat import BASE, TUNED
from trainer.results.judgement import Compared
from trainer.worker.judging.reading import after, losses
from trainer.worker.judging.writing import Asked

_MOST_LABELS = 10
"""Each label of a row is read by itself: more would take longer than writing an answer."""
_LONGEST_LABEL = 10
"""Tokens of a label with its end."""
_FEWEST_OF_EACH = 3
"""Rows of each label, on average, below which answers are not taken for labels."""


class Choices:
    """The labels of some rows, and which of them each model finds the likeliest."""

    def __init__(self, every: Sequence[Asked], asked: Sequence[Asked]) -> None:
        """Find out whether the answers are labels.

        Args:
            every: The questions and answers of all rows, from which it is told.
            asked: Those that are judged.
        """
        found = sorted({tuple(answer) for _, answer in every})
        are_labels = 1 < len(found) <= _MOST_LABELS and len(every) >= _FEWEST_OF_EACH * len(found)
        self.labels = found if are_labels and max(map(len, found)) <= _LONGEST_LABEL else []
        self._asked = asked if self.labels else []
        self._right: dict[str, list[float]] = {}

    @property
    def work(self) -> int:
        """How many times something is read."""
        return len(self._asked) * len(self.labels)

    def read(self, voice: str, model: Any, *, chunked: bool) -> Iterator[int]:
        """Note which rows a model chooses right: those of whose labels the right one is the likeliest, end included.

        The logarithms of the probabilities of a label's tokens are summed: whole labels are compared as the model would
        write them, and a long one has no advantage.
        """
        self._right[voice] = []
        is_decoder = not model.config.is_encoder_decoder
        rows = (after(ids, label) if is_decoder else (ids, label) for ids, _ in self._asked for label in self.labels)
        each = losses(model, rows, chunked=chunked)
        for _, answer in self._asked:
            found = []
            for label in self.labels:
                found.append((next(each), label))
                yield 1
            self._right[voice].append(float(min(found)[1] == tuple(answer)))

    def compared(self) -> Iterator[Compared]:
        """Yield in how many rows the right label was the likeliest, if the answers are labels."""
        if self._asked:
            label = f"Right label the likeliest of {len(self.labels)}"
            yield judgement.scores("likeliest", label, self._right[BASE], self._right[TUNED])
