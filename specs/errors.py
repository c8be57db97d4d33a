"""Every error a person can cause; each is one sentence that gives subject, rule, value and way out."""

import difflib
from collections.abc import Sequence

LONGEST = 300
"""Characters of the longest sentence; more nobody reads."""

_LONGEST_SUBJECT = 80


class LorafitError(Exception):
    """An error whose text is one sentence for a person: subject, rule, value found, way out."""

    def __init__(self, subject: str, rule: str, got: object = None, way_out: str = "") -> None:
        """Compose the sentence; ``got`` is shortened to one line, so that hostile input does no harm."""
        shown = "" if got is None else f", got {shortened(got)}"
        ending = f" {way_out.rstrip('.')}." if way_out else ""
        # A subject may be a path of any length, whose end tells most.
        named = subject if len(subject) <= _LONGEST_SUBJECT else f"…{subject[-_LONGEST_SUBJECT + 1 :]}"
        sentence = f"{named}: {rule}{shown}.{ending}"
        super().__init__(sentence if len(sentence) <= LONGEST else f"{sentence[: LONGEST - 1]}…")
        self.subject = subject


class SpecError(LorafitError):
    """A model or GPU description that cannot be used."""


class PlanError(LorafitError):
    """A plan with a value out of range or with values that contradict each other."""


class CatalogError(LorafitError):
    """A fact that could not be found or read."""


class TraceError(LorafitError):
    """A model whose training step could not be traced."""


class DataError(LorafitError):
    """A data set that cannot be trained on."""


class RunError(LorafitError):
    """A request that a run cannot meet, because of its state or its machine."""


def shortened(value: object, limit: int = 80) -> str:
    """Return ``repr(value)`` on one line of at most ``limit`` characters."""
    text = value if isinstance(value, str) and value.isidentifier() else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def nearest(name: str, names: Sequence[str]) -> str:
    """Return the names closest to one that is not among them, as a way out."""
    return f"Nearest: {', '.join(difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names)}"
