"""Time of a step before the start, from arithmetic and the card's throughput."""

from dataclasses import dataclass
from typing import Any

from advisor.situation import Situation
from specs import FinetunePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """An estimated speed; the band is a factor to either side."""

    seconds_per_step: float
    tokens_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """Return the speed as plain JSON values."""
        return {"seconds_per_step": self.seconds_per_step, "tokens_per_second": self.tokens_per_second}


def step_speed(_situation: Situation, _plan: FinetunePlan) -> Speed | None:
    """Return the speed of a plan, or None where the device's throughput is unknown."""
    return None


def relative_time(_situation: Situation, _plan: FinetunePlan, _other: FinetunePlan) -> float | None:
    """Return the time of a plan over that of another for the same data."""
    return None
