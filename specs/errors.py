"""Every error a person can cause; each is one sentence that gives subject, rule, value and way out."""

import difflib
from collections.abc import Sequence
from typing import Self

from specs.secrecy import without_secrets
from specs.signs import is_unseen

LONGEST = 300
"""Characters of the longest sentence; more nobody reads."""

_LONGEST_SUBJECT = 80


class LorafitError(Exception):
    """An error whose text is one sentence for a person: subject, rule, value found, way out."""

    def __init__(self, subject: str, rule: str, got: object = None, way_out: str = "") -> None:
        """Compose the sentence on one line, without secrets; all parts are shortened, so that no input does harm."""
        # What is quoted, such as the reason of another error, may be a sentence already.
        said = ended(rule) if got is None else f"{_open(rule)}, got {shortened(got)}."
        ending = f" {ended(way_out)}" if way_out else ""
        named = without_secrets(subject)
        # It may be a path of any length, whose end tells most.
        named = named if len(named) <= _LONGEST_SUBJECT else f"…{named[-_LONGEST_SUBJECT + 1 :]}"
        super().__init__(clipped(f"{named}: {said}{ending}"))
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

    def renamed(self, before: str, after: str) -> Self:
        """Return the same error about a file under the name that its person gave it."""
        self.args = (clipped(str(self).replace(before, after)),)
        return self


class RunError(LorafitError):
    """A request that a run cannot meet, because of its state or its machine."""


def ended(words: str) -> str:
    """Return words that may be a sentence already with one full stop at their end; what was cut off keeps its mark."""
    bare = words.rstrip()
    return bare if bare.endswith(("...", "…", "!", "?")) else f"{_open(bare)}."


def _open(words: str) -> str:
    return words.rstrip(" .") if not words.rstrip().endswith("...") else words.rstrip()


def clipped(sentence: str, longest: int = LONGEST) -> str:
    """Return a text on one line of at most ``longest`` characters, all of them visible, without secrets."""
    # Enough is looked at for a secret that begins within the limit.
    shown = without_secrets(sentence[: 8 * longest])
    shown = "".join(ascii(sign)[1:-1] if is_unseen(sign) else sign for sign in shown)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def shortened(value: object, limit: int = 80) -> str:
    """Return ``repr(value)`` on one line of at most ``limit`` characters, of a tuple its members as they are typed."""
    if isinstance(value, tuple) and value:
        text = ", ".join(shortened(member, limit) for member in value[:limit])
    else:
        text = without_secrets(value if isinstance(value, str) and value.isidentifier() else repr(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def nearest(name: str, names: Sequence[str]) -> str:
    """Return the names closest to one that is not among them, as a way out."""
    return f"Nearest: {', '.join(difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names)}"
