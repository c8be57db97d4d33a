"""What a piece of advice consists of: a value, what else is acceptable, why, who says so, and how sure it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from advisor.situation import Situation
from specs import FinetunePlan
from specs.units import in_powers


class Confidence(StrEnum):
    """How well the evidence supports a value."""

    HIGH = "high"
    """Two or more independent measurements, or a fact about the library."""
    MEDIUM = "medium"
    """One measurement, or many shipped defaults that agree."""
    LOW = "low"
    """Opinion or interpolation."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a claim can be looked up."""

    title: str
    url: str
    where: str = ""
    """Section, table, file or function."""

    def at(self, where: str) -> "Source":
        """Return the same source pointing at one place in it."""
        return Source(self.title, self.url, where)

    def __str__(self) -> str:
        place = f", {self.where}" if self.where else ""
        return f"{self.title}{place}, {self.url}" if self.url else f"{self.title}{place}"

    def to_dict(self) -> dict[str, str]:
        """Return the source as plain JSON values."""
        return {"title": self.title, "url": self.url, "where": self.where}


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The recommendation for one field of the plan."""

    field: str
    value: Any
    range: tuple[Any, ...]
    """For a number, the lowest and the highest acceptable value; otherwise every acceptable value."""
    reason: str
    """One sentence that names the inputs that the value follows from."""
    source: Source
    confidence: Confidence = Confidence.MEDIUM

    @property
    def is_interval(self) -> bool:
        """Whether ``range`` is the two ends of an interval."""
        return len(self.range) == 2 and all(_is_number(end) for end in self.range)

    def accepts(self, value: Any) -> bool:
        """Return whether a value lies in the acceptable range."""
        if self.is_interval and _is_number(value):
            return bool(self.range[0] <= value <= self.range[1])
        return value == self.value or value in self.range

    def range_with(self, value: Any) -> tuple[Any, ...]:
        """Return the acceptable range, widened so that it has a value in it."""
        if self.accepts(value):
            return self.range
        widened = (value, *self.range)
        # Two numbers are the ends of an interval.
        numbers = len(self.range) <= 2 and all(map(_is_number, widened))
        return (min(widened), max(widened)) if numbers else widened

    def to_dict(self) -> dict[str, Any]:
        """Return the advice as plain JSON values."""
        return {
            "field": self.field,
            "value": list(self.value) if isinstance(self.value, tuple) else self.value,
            "range": [list(entry) if isinstance(entry, tuple) else entry for entry in self.range],
            "reason": self.reason,
            "source": self.source.to_dict(),
            "confidence": str(self.confidence),
        }


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule for one field: how it decides, what its reason must name, and when the field applies."""

    field: str
    decide: Callable[[Situation, FinetunePlan], Advice]
    """Takes the situation and the plan as decided so far."""
    uses: tuple[str, ...]
    """The inputs of the decision: names that ``Situation.phrase`` knows, or earlier fields of the plan."""
    applies: Callable[[FinetunePlan], bool] = lambda _plan: True


@dataclass(frozen=True, slots=True)
class Caution:
    """Something a person should know about a plan before starting it."""

    field: str
    text: str
    source: Source

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Return the caution as plain JSON values."""
        return {"field": self.field, "text": self.text, "source": self.source.to_dict()}


class Estimate(Protocol):
    """The part of a memory estimate that the advisor reads."""

    @property
    def used_bytes(self) -> int:
        """Bytes that the run uses on the device at its peak."""

    @property
    def trainable_params(self) -> int:
        """Parameters that the optimizer updates."""

    @property
    def num_params(self) -> int:
        """Parameters of the base model."""

    @property
    def components(self) -> Mapping[str, int]:
        """Bytes by component; their sum is ``used_bytes``."""

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain JSON values."""


Price = Callable[[FinetunePlan], Estimate]
"""Estimates the memory of a plan on the situation's device."""

LowerBound = Callable[[FinetunePlan], int]
"""Returns bytes that a plan uses at the very least: much cheaper to compute than its price."""


def no_lower_bound(_plan: FinetunePlan) -> int:
    """Return 0: nothing is known about a plan before it is priced."""
    return 0


def spelled(value: Any) -> str:
    """Return a plan's value as text."""
    named: Mapping[Any, str] = {True: "on", False: "off", None: "none"}
    if value is None or isinstance(value, bool):
        return named[value]
    if isinstance(value, float):
        return in_powers(value) if 0 < abs(value) < 0.001 else f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(entry if isinstance(entry, str) else f"{entry[0]}: {entry[1]}" for entry in value) or "none"
    return str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
