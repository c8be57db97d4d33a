"""An ablation: a grid of plans, each trained to its end with several seeds, and what that says of each. Pure."""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from specs import FinetunePlan, PlanError
from trainer.runs.race import Race, shown

RANKS = (1, 2, 4, 8, 16, 32, 64)
SETS = ("q", "k", "v", "qv", "qkvo", "all")
"""The ranks and the sets of modules that textbooks compare."""
SEEDS = 3
MOST_SEEDS = 10

_BY_LETTER: Mapping[str, tuple[str, ...]] = {
    "q": ("q_proj", "query", "q_lin", "q"),
    "k": ("k_proj", "key", "k_lin", "k"),
    "v": ("v_proj", "value", "v_lin", "v"),
    "o": ("o_proj", "out_proj", "out_lin", "o"),
}
"""What models call the linear layers of attention: Llama and most others, BERT, DistilBERT, T5."""
_ALL = {"all": "all-linear", "all-linear": "all-linear"}
_TOLD = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an ablation found of one plan."""

    values: Mapping[str, Any]
    """The varied fields with the plan's values."""
    losses: tuple[float, ...]
    """The held-out loss with each seed that is trained so far."""
    seeds: int
    """With how many seeds it is to be trained."""
    out: str = ""
    """Why a training ended before its end; empty if none did."""
    seconds: float | None = None
    """How long one of its trainings took, on average: on a CPU the processor time."""

    @property
    def label(self) -> str:
        """What the plan is called."""
        return ", ".join(f"{name} {shown(value)}" for name, value in self.values.items())

    @property
    def mean(self) -> float | None:
        """The mean of its losses; None without any, or where a training failed."""
        return statistics.fmean(self.losses) if self.losses and not self.out else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation of its losses over the seeds; None with fewer than two."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 and not self.out else None

    @property
    def said(self) -> str:
        """The mean and its deviation in a few signs."""
        if self.mean is None:
            return ""
        return f"{self.mean:.4f}" + (f" ± {self.deviation:.4f}" if self.deviation is not None else "")

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {**asdict(self), "losses": [*self.losses], "mean": self.mean, "deviation": self.deviation}


def results(race: Race, plan: FinetunePlan) -> tuple[Result, ...]:
    """Return what an ablation has found so far of each of its plans, in the order of the grid."""
    return tuple(_result(race, race.group(first), plan) for first in range(0, len(race.changes), race.repeats))


def _result(race: Race, group: Sequence[int], plan: FinetunePlan) -> Result:
    values = race.plan_of(group[0], plan).to_dict()
    reasons = [str(race.out[trial][1]) for trial in group if trial in race.out]
    done = [trial for trial in group if race.losses.get(trial)]
    taken = [race.seconds[trial] for trial in done if trial in race.seconds]
    return Result(
        values={name: values[name] for name in race.varied},
        losses=tuple(race.losses[trial][-1] for trial in done),
        seeds=race.repeats,
        out=reasons[0] if reasons else "",
        seconds=statistics.fmean(taken) if taken else None,
    )


def ranked(found: Iterable[Result]) -> list[Result]:
    """Return those results that have a mean, the lowest first."""
    return sorted((one for one in found if one.mean is not None), key=lambda one: one.mean or 0.0)


def sentence(found: Sequence[Result]) -> str:
    """Return which plans did best, and whether the first differs from the second by more than the seeds do."""
    best = ranked(found)
    if not best:
        return "No plan has a held-out loss yet."
    told = "; ".join(f"{one.label} {one.said}" for one in best[:_TOLD])
    return f"Held-out loss, lowest first: {told}. {_apart(best)}".strip()


def _apart(best: Sequence[Result]) -> str:
    """Return in a sentence whether the best plan is told apart from the second: by two standard errors.

    They are compared seed by seed: all trainings learn and hold out the same rows.
    """
    if len(best) < 2 or min(len(one.losses) for one in best[:2]) < 2:
        return ""
    gaps = [second - first for first, second in zip(best[0].losses, best[1].losses, strict=False)]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps))
    gap = statistics.fmean(gaps)
    if gap > 2 * error:
        return f"The first is ahead of the second by {gap:.4f} ± {error:.4f}, seed by seed."
    return f"The first two are not told apart: {gap:.4f} ± {error:.4f}, seed by seed."


def with_modules(texts: Iterable[str], modules: Sequence[str]) -> Iterator[str]:
    """Yield what is to be varied, with sets of modules such as ``qv`` or ``all`` as the model calls them.

    Args:
        texts: Such as ``target_modules=q,qv,all``.
        modules: The linear modules of the model.

    Raises:
        PlanError: If the model has no module of that kind.
    """
    for text in texts:
        field, equals, values = text.partition("=")
        if field != "target_modules" or not equals:
            yield text
            continue
        yield f"{field}={','.join(_set(one, modules) for one in values.split(','))}"


def _set(one: str, modules: Sequence[str]) -> str:
    """Return a set of modules by the names that the model has for them; what is no row of letters stays."""
    if one in _ALL:
        return _ALL[one]
    if one in modules or not one or not set(one) <= _BY_LETTER.keys():
        return one
    found = [next((name for name in _BY_LETTER[letter] if name in modules), "") for letter in one]
    if not all(found):
        rule = "must name modules of the model, which has none for each of these letters"
        raise PlanError("target_modules", rule, one, f"Choose from {', '.join(modules) or 'all'}")
    return "+".join(found)


def sets_of(modules: Sequence[str]) -> tuple[str, ...]:
    """Return those of the usual sets that a model has; of one whose attention is a single layer, ``all`` alone."""
    known = [
        letters
        for letters in SETS
        if letters == "all" or all(any(name in modules for name in _BY_LETTER[one]) for one in letters)
    ]
    return tuple(known)
