"""The decision tree as data: the questions for one situation with its numbers, and the map of size by memory."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from advisor.advice import Estimate
from advisor.advise import Recommendation
from advisor.rules import RULE_SETS
from advisor.search import HEADROOM, Search
from advisor.situation import Situation
from specs import METHODS, TASK_TYPES, FinetunePlan, GpuSpec, ModelSpec, gib

PriceOnCard = Callable[[ModelSpec, FinetunePlan, GpuSpec], Estimate]
LeastOnCard = Callable[[ModelSpec, FinetunePlan, GpuSpec], int]


@dataclass(frozen=True, slots=True)
class Question:
    """One fork of the tree, for this situation."""

    text: str
    answer: bool
    detail: str
    """The numbers behind the answer."""
    outcome: str
    """What follows from the answer; empty if the next question decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of the map: the method for a model on a card."""

    model: str
    num_params: int
    gpu: str
    memory_bytes: int
    method: str | None
    """The method that is advised; None if nothing fits."""
    full_fits: bool
    """Whether full fine-tuning fits too."""
    used_bytes: int
    """Bytes that the advised plan uses."""


def questions(situation: Situation, recommendation: Recommendation) -> tuple[Question, ...]:
    """Return the questions that lead from a situation to its method, with this situation's numbers."""
    by_method = {entry.plan.method: entry for entry in reversed(recommendation.alternatives)}
    asked = [_prompting(situation)] if TASK_TYPES[situation.task_type].writes else []
    asked.append(_full(situation, recommendation))
    for method in ("lora", "qlora"):
        entry = by_method.get(method)
        if entry is None:
            continue
        free = 1 - entry.used_bytes / situation.available_bytes
        fits = free >= HEADROOM
        asked.append(
            Question(
                f"Does {METHODS[method].label} leave {HEADROOM:.0%} free?",
                fits,
                f"{gib(entry.used_bytes)} of {situation.phrase('memory')}",
                METHODS[method].label if fits else "",
            )
        )
        if fits:
            break
    else:
        asked.append(
            Question(
                "Does its smallest form fit?",
                recommendation.fits,
                f"{gib(recommendation.estimate.used_bytes)} of {situation.phrase('memory')}",
                "tight" if recommendation.fits else "a smaller model, or more memory",
            )
        )
    return tuple(asked)


def method_map(situations: Iterable[Situation], price: PriceOnCard, at_least: LeastOnCard) -> tuple[Cell, ...]:
    """Return the method that is advised in each situation of a model and a card, as its plan has it."""
    return tuple(_cell(situation, price, at_least) for situation in situations)


def _cell(situation: Situation, price: PriceOnCard, at_least: LeastOnCard) -> Cell:
    model, card = situation.model, situation.device
    search = Search(
        situation,
        RULE_SETS["evidence"],
        lambda plan: price(model, plan, card),
        lambda plan: at_least(model, plan, card),
    )
    fit = search.best()
    return Cell(
        model=model.name,
        num_params=situation.num_params,
        gpu=situation.gpu.name,
        memory_bytes=situation.gpu.memory_bytes,
        method=fit.plan.method if fit.fits else None,
        full_fits=search.best_of("full").fits,
        used_bytes=fit.estimate.used_bytes,
    )


def _prompting(situation: Situation) -> Question:
    rows = situation.dataset_rows
    few = rows is not None and rows < 500
    return Question(
        "Are there fewer than 500 rows?",
        few,
        situation.phrase("rows"),
        "try prompting with examples first" if few else "",
    )


def _full(situation: Situation, recommendation: Recommendation) -> Question:
    full = recommendation.plan.method == "full"
    return Question(
        "A new domain, quality above all, and more tokens than the largest adapter holds?",
        full,
        f"{situation.phrase('task')}, {situation.phrase('goal')}, {situation.phrase('rows')}",
        METHODS["full"].label if full else "",
    )
