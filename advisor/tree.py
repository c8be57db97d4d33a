"""The decision tree as data: the questions for one situation with its numbers, and the map of size by memory."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from advisor.advice import Estimate
from advisor.advise import Recommendation
from advisor.rules import RULE_SETS
from advisor.search import HEADROOM, Search
from advisor.situation import Situation
from specs import METHODS, TASK_TYPES, FinetunePlan, GpuSpec, ModelSpec, gib

PriceOfModel = Callable[[ModelSpec, FinetunePlan], Estimate]

_LADDER = ("full", "lora", "qlora")


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
    """The most precise adapter that fits with headroom; None if none fits."""
    full_fits: bool
    """Whether full fine-tuning fits too."""
    used_bytes: int
    """Bytes of the method's smallest form; of QLoRA's if nothing fits."""


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


def method_map(models: Iterable[ModelSpec], gpus: Iterable[GpuSpec], price: PriceOfModel) -> tuple[Cell, ...]:
    """Return the method for each model on each card; every model is priced three times."""
    cards = tuple(gpus)
    cells = []
    for model in models:
        needed = _needed(model, max(cards, key=lambda card: card.memory_bytes), price)
        for gpu in cards:
            fitting = [name for name in _LADDER if needed[name] <= (1 - HEADROOM) * gpu.usable_bytes]
            adapters = [name for name in fitting if name != "full"]
            method = adapters[0] if adapters else None
            cells.append(
                Cell(
                    model=model.name,
                    num_params=Situation(model=model, gpu=gpu).num_params,
                    gpu=gpu.name,
                    memory_bytes=gpu.memory_bytes,
                    method=method,
                    full_fits="full" in fitting,
                    used_bytes=needed[method or "qlora"],
                )
            )
    return tuple(cells)


def _needed(model: ModelSpec, gpu: GpuSpec, price: PriceOfModel) -> dict[str, int]:
    """Return the bytes of each method's smallest form."""
    situation = Situation(model=model, gpu=gpu, goal="memory")

    def priced(plan: FinetunePlan) -> Estimate:
        return price(model, plan)

    search = Search(situation, RULE_SETS["evidence"], priced)
    smallest = {name: search.smallest_of(name).plan for name in _LADDER}
    smallest["full"] = dataclasses.replace(smallest["full"], optim="adamw_torch_fused")
    return {name: search.estimate(plan).used_bytes for name, plan in smallest.items()}


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
