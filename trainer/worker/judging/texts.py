"""Rows of text: the loss of what is to be learned, and answers beside those of the data."""

from collections.abc import Iterator, Mapping, Sequence
from threading import Event
from typing import Any

from trainer.data.tested import RowTest
from trainer.results import judgement
from trainer.results.answers import positions_left
from trainer.results.chat import BASE, TUNED
from trainer.results.judgement import Compared
from trainer.worker.judging import scores
from trainer.worker.judging.choices import Choices
from trainer.worker.judging.code import LONGEST_CODE, Code
from trainer.worker.judging.judge import Judge, Row
from trainer.worker.judging.reading import IGNORED, losses
from trainer.worker.judging.writing import LONGEST_ANSWER, Asked, Said, batches, written


class Texts(Judge):
    """Rows of text: the loss of what is to be learned, and answers beside those of the data."""

    def __init__(
        self, tokenizer: Any, rows: Sequence[Row], *, is_decoder: bool, answers: int, general: Sequence[str]
    ) -> None:
        super().__init__(tokenizer, rows)
        self._is_decoder = is_decoder
        self.translates = False
        """Whether the answers are translations."""
        self.most_tokens, self.chunked = 0, True
        """Tokens that are read together, at most, and whether their logits are made in chunks: as in training."""
        self._losses: dict[str, list[float]] = {}
        self._general: dict[str, list[float]] = {}
        self._said: dict[str, list[Said]] = {}
        self._passages = [tokenizer(text, add_special_tokens=True)["input_ids"] for text in general]
        asked = [(number, found) for number, row in enumerate(rows) if (found := self._parts(row))]
        self._asked = dict(asked[:answers])
        self._choices = Choices([parts for _, parts in asked], [*self._asked.values()])
        self._code = Code({}, {})

    def run_code(self, tests: Mapping[int, RowTest]) -> None:
        """Also run the answers to questions, with the tests of their rows, by the rows' places."""
        self._code = Code(tests, {number: self._decoded(answer) for number, (_, answer) in self._asked.items()})

    @property
    def work(self) -> int:
        """Rows and passages to read, and answers to write."""
        return len(self.rows) + len(self._passages) + self._choices.work + len(self._asked) + self._code.work

    def read(self, voice: str, model: Any, stop: Event) -> Iterator[int]:
        """Note the losses of all rows and passages, and write the answers."""
        self._losses[voice], self._general[voice], self._said[voice] = [], [], []
        for loss in losses(model, ((row["input_ids"], row["labels"]) for row in self.rows), chunked=self.chunked):
            self._losses[voice].append(loss)
            yield 1
        for loss in losses(model, ((ids, ids) for ids in self._cut(model)), chunked=self.chunked):
            self._general[voice].append(loss)
            yield 1
        yield from self._choices.read(voice, model, chunked=self.chunked)
        asked = [*self._asked.values()]
        longest = LONGEST_CODE if self._code.work else LONGEST_ANSWER
        for some in batches(asked, self.most_tokens):
            self._said[voice] += written(model, self.tokenizer, some, stop, longest=longest)
            yield len(some)
        said = (said.words for said in self._said[voice])
        yield from self._code.read(voice, dict(zip(self._asked, said, strict=True)), stop)

    def _cut(self, model: Any) -> list[list[int]]:
        """Return the passages no longer than the model has positions for, and than training had memory for."""
        left = positions_left(model, 0)
        most = self.most_tokens if left is None else min(left, self.most_tokens)
        self._passages = [ids[:most] for ids in self._passages]
        return self._passages

    def compared(self) -> list[Compared]:
        """Return the loss of what is to be learned, how near the answers are, and the loss of general text."""
        tokens = [self._num_learned(row) for row in self.rows]
        found = [judgement.losses("loss", "Loss per token", self._both(self._losses, tokens))]
        found += self._code.compared()
        if self._asked:
            right = [self._decoded(answer) for _, answer in self._asked.values()]
            base, tuned = ([said.words for said in self._said[voice]] for voice in (BASE, TUNED))
            found += scores.compared(right, base, tuned, translates=self.translates)
        found += self._choices.compared()
        if self._passages:
            lengths = [len(ids) - 1 for ids in self._passages]
            found.append(
                judgement.losses("general", "Loss per token of general text", self._both(self._general, lengths))
            )
        return found

    @property
    def notes(self) -> Sequence[str]:
        """What was left out of the scores."""
        return self._code.notes

    def told(self) -> list[dict[str, Any]]:
        """Return each question with the losses of its answer, in nats over its tokens, and what was written."""
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
                **self._code.told(number),
            }
            for number, row in enumerate(self.rows)
        ]

    def _num_learned(self, row: Row) -> int:
        """Return of how many tokens the loss is; a decoder does not predict its first one."""
        return sum(label != IGNORED for label in row["labels"][1 if self._is_decoder else 0 :])

    def _parts(self, row: Row) -> Asked | None:
        """Return what is read of a row before its first answer, and that answer; None where nothing is asked."""
        ids, labels = row["input_ids"], row["labels"]
        if not self._is_decoder:
            return ids, labels
        first = next((place for place, label in enumerate(labels) if label != IGNORED), len(labels))
        if not row["question"] or not 0 < first < len(labels):
            return None
        end = next((place for place in range(first, len(labels)) if labels[place] == IGNORED), len(labels))
        return ids[:first], labels[first:end]

    def _both(self, losses: Mapping[str, Sequence[float]], tokens: Sequence[int]) -> list[tuple[float, float, int]]:
        return list(zip(losses[BASE], losses[TUNED], tokens, strict=True))

    def _decoded(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()
