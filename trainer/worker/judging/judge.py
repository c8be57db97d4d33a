"""What every judge does: two models read the same rows, one after the other, and are then compared."""

from collections.abc import Iterator, Mapping, Sequence
from threading import Event
from typing import Any

from trainer.results.chat import BASE, TUNED
from trainer.results.judgement import Compared

Row = Mapping[str, Any]


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

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know about the figures, in sentences."""
        return ()

    def told(self) -> list[dict[str, Any]]:
        """Return what was found, row by row."""
        raise NotImplementedError
