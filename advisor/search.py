"""The best plan that fits: changes are made in order of harm until the estimate fits with headroom.

A replay of the allocator costs up to 40 ms, its lower bound under 1 ms: plans that the bound rules out are never
replayed, and the largest candidate is tried first, since smaller ones need not be tried if it fits.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from advisor.advice import Estimate, LowerBound, Price, Rule, no_lower_bound
from advisor.rules.batch import effective_batch
from advisor.situation import Situation
from specs import METHODS, TASK_TYPES, FinetunePlan, PlanError, sharing
from specs.fields import Optimizer
from specs.gpu import WITHOUT_8BIT_OPTIMIZERS
from specs.sharing import UNSHARDED

HEADROOM = 0.10
"""Share of the memory that a recommended plan leaves free, for the estimate's error and what else uses the card."""
SPARE_WITHOUT_CHECKPOINTING = 0.30
"""Share that must be left free for activations to be kept instead of recomputed."""
SMALLEST_RANK = 8
SHORTEST_LENGTH = 256
PAGED: Optimizer = "paged_adamw_8bit"

Fields = tuple[str, ...]
"""Names of plan fields."""

_PREFERRED = ("lora", "qlora")
_SMALLEST = ("qlora",)
_NOTHING: Fields = ()
_IRRELEVANT_TO_MEMORY: Mapping[str, Any] = {
    entry.name: entry.default
    for entry in dataclasses.fields(FinetunePlan)
    if entry.name
    in {
        "lora_alpha",
        "learning_rate",
        "lr_scheduler_type",
        "warmup_steps",
        "weight_decay",
        "num_train_epochs",
        "max_steps",
        "logging_steps",
        "save_steps",
        "seed",
        "train_sampling_strategy",
        "load_best_model_at_end",
        "early_stopping_patience",
        "report_to",
    }
}
"""Fields that change no tensor's size, with their defaults."""
_LAST_RESORTS = frozenset({"r"})
"""Lowered only when nothing else fits at all, not for headroom: a lower rank costs quality and saves little."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A plan with its estimate and what the search changed in it."""

    plan: FinetunePlan
    estimate: Estimate
    fits: bool
    headroom: float
    """Share of the memory that is left free; negative if the plan does not fit."""
    changed: Fields = ()
    """Fields that the search changed, in order."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Better methods that did not fit, with the bytes that their smallest form uses."""


class Search:
    """Prices each plan of a situation once and finds the best one that fits."""

    def __init__(
        self, situation: Situation, rules: Sequence[Rule], price: Price, at_least: LowerBound = no_lower_bound
    ) -> None:
        """Store the inputs; nothing is priced yet."""
        self.situation = situation
        self.rules = rules
        self._price = price
        self._at_least = at_least
        self._priced: dict[FinetunePlan, Estimate] = {}

    def estimate(self, plan: FinetunePlan) -> Estimate:
        """Return a plan's estimate."""
        asked = same_in_memory(self.situation.as_priced(plan))
        if asked not in self._priced:
            self._priced[asked] = self._price(asked)
        return self._priced[asked]

    def headroom(self, plan: FinetunePlan) -> float:
        """Return the share of the memory that a plan leaves free."""
        return 1 - self.estimate(plan).used_bytes / self.situation.available_bytes

    def leaves_free(self, plan: FinetunePlan, headroom: float) -> bool:
        """Return whether a plan leaves at least this share of the memory free."""
        if self._at_least(self.situation.as_priced(plan)) > (1 - headroom) * self.situation.available_bytes:
            return False
        return self.headroom(plan) >= headroom

    def drafted(self, method: str) -> FinetunePlan:
        """Return the plan that the rules propose under a method, before memory is considered."""
        return drafted(self.situation, method, self.rules)

    def of_steps(self, plan: FinetunePlan, steps: int) -> FinetunePlan:
        """Return a plan that ends after so many steps, with all that the rules make of their number, as its warm-up."""
        asked = dataclasses.replace(self.situation, pins={**self.situation.pins, "max_steps": steps})
        whole, ended = self.drafted(plan.method), drafted(asked, plan.method, self.rules)
        changed = {
            entry.name: getattr(ended, entry.name)
            for entry in dataclasses.fields(plan)
            if getattr(ended, entry.name) != getattr(whole, entry.name)
        }
        return dataclasses.replace(plan, **changed)

    def best(self) -> Fit:
        """Return the best plan that fits with headroom; failing that, without; failing that, the smallest."""
        return self._fit(*self._found())

    def _found(self) -> tuple[FinetunePlan, Fields, Mapping[str, FinetunePlan]]:
        """Return the best plan, what was changed in it, and the smallest plans of better methods that did not fit."""
        stages = list(self._stages())
        for headroom in (HEADROOM, 0.0):
            refused: dict[str, FinetunePlan] = {}
            for plan, changed in stages:
                if headroom and _LAST_RESORTS & set(changed):
                    continue
                refined = self._refined(plan, headroom)
                if refined is not None:
                    return refined, changed, refused
                refused.setdefault(plan.method, self._smallest(plan))
        plan, changed = stages[-1]
        return self._smallest(plan), changed, refused

    def best_of(self, method: str) -> Fit:
        """Return what ``best`` finds where the method is pinned: the plan that choosing the method leads to."""
        pins = {**self.situation.pins, "method": method}
        pinned = Search(dataclasses.replace(self.situation, pins=pins), self.rules, self._price, self._at_least)
        pinned._priced = self._priced
        plan, changed, _ = pinned._found()
        return self._fit(plan, changed, {})

    def smallest_of(self, method: str) -> Fit:
        """Return the smallest form of a method: one sequence, checkpointing, paged 8-bit optimizer."""
        plan = self._smallest(self.drafted(method))
        return self._fit(self._with(plan, optim=PAGED) if self.may_page(plan) else plan, (), {})

    def most_careful(self) -> FinetunePlan:
        """Return the smallest form of the smallest method that is open, without a price."""
        plan = self._smallest(self.drafted(self._methods()[-1]))
        return self._with(plan, optim=PAGED) if self.may_page(plan) else plan

    def unchanged(self, plan: FinetunePlan) -> Fit:
        """Return a plan unchanged, with its price."""
        return self._fit(plan, (), {})

    def under_method(self, plan: FinetunePlan, method: str) -> FinetunePlan:
        """Return the rules' plan for another method, with the batch, length and checkpointing of this one."""
        kept = ("per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "gradient_checkpointing")
        return dataclasses.replace(self.drafted(method), **{name: getattr(plan, name) for name in kept})

    def sharded_over(self, plan: FinetunePlan, num_gpus: int) -> FinetunePlan:
        """Return a plan sharded over this many devices by FSDP, with the same effective batch."""
        wider = self._with(plan, num_gpus=num_gpus, sharding="fsdp")
        return self.rebatched(wider, plan.per_device_train_batch_size)

    def is_compatible(self, method: str) -> bool:
        """Return whether a method is compatible with the pinned fields."""
        return is_compatible(method, self.situation)

    def allows(self, name: str, method: str | None = None) -> bool:
        """Return whether the search may change a field: neither the person nor the method has fixed it."""
        return name not in self.situation.pins and (method is None or name not in METHODS[method].preset)

    def may_page(self, plan: FinetunePlan) -> bool:
        """Return whether the plan may use bitsandbytes' paged 8-bit optimizer, which runs only on some GPUs."""
        able = self.situation.gpu.backend not in {"cpu", *WITHOUT_8BIT_OPTIMIZERS}
        return self.allows("optim") and able and plan.sharding in UNSHARDED

    def rebatched(self, plan: FinetunePlan, micro: int) -> FinetunePlan:
        """Return a plan with another micro-batch and, by accumulation, the same effective batch."""
        if not self.allows("per_device_train_batch_size"):
            return plan
        micro = max(micro, plan.least_batch_size)
        values: dict[str, Any] = {"per_device_train_batch_size": micro}
        # What is accumulated is not compared with each other.
        if self.allows("gradient_accumulation_steps") and not TASK_TYPES[plan.task_type].multiplies_by_batch:
            proposed = max(effective_batch(self.situation), plan.num_gpus)
            values["gradient_accumulation_steps"] = max(1, math.ceil(proposed / (micro * plan.num_gpus)))
        return dataclasses.replace(plan, **values)

    def _fit(self, plan: FinetunePlan, changed: Fields, refused: Mapping[str, FinetunePlan]) -> Fit:
        headroom = self.headroom(plan)
        needed = {name: self.estimate(smallest).used_bytes for name, smallest in refused.items()}
        return Fit(plan, self.estimate(plan), headroom >= 0, headroom, changed, needed)

    def _stages(self) -> Iterator[tuple[FinetunePlan, Fields]]:
        """Yield candidate plans from the best to the smallest, each with the fields changed so far."""
        proposed = [self.drafted(method) for method in self._methods()]
        for plan in proposed:
            yield from self._sharded(plan, ())
            if self.situation.may_shorten:
                yield from self._shortened(plan, ())
        last, changed = proposed[-1], _NOTHING
        for name, value in self._late_levers(last):
            last, changed = self._with(last, **{name: value}), (*dict.fromkeys((*changed, name)),)
            yield from self._sharded(last, changed)
        if self.allows("max_length") and self.situation.dataset_tokens is None:
            yield from self._shortened(last, changed)

    def _methods(self) -> tuple[str, ...]:
        """Return the methods to try, best first, that are compatible with the pinned fields."""
        situation = self.situation
        if "method" in situation.pins:
            return (situation.pins["method"],)
        order = _SMALLEST if situation.goal == "memory" else _PREFERRED
        if self._deserves_full():
            order = ("full", *order)
        return _compatible(order, situation) or _compatible(tuple(METHODS), situation) or order

    def _deserves_full(self) -> bool:
        """Return whether all weights should be trained: the goal is quality, with much text from a new domain."""
        situation = self.situation
        tokens = situation.train_tokens or 0
        return situation.task == "domain" and situation.goal == "quality" and tokens > situation.lora_params(256)

    def _late_levers(self, plan: FinetunePlan) -> Iterator[tuple[str, Any]]:
        """Yield the last changes to make: the optimizer's precision, then rank."""
        if self.may_page(plan) and plan.optim != PAGED:
            yield "optim", PAGED
        rank = plan.r
        while METHODS[plan.method].has_rank and self.allows("r") and rank > SMALLEST_RANK:
            rank //= 2
            yield "r", rank

    def _sharded(self, plan: FinetunePlan, changed: Fields) -> Iterator[tuple[FinetunePlan, Fields]]:
        yield plan, changed
        if plan.sharding == "ddp" and self.allows("sharding"):
            yield self._with(plan, sharding="fsdp"), (*changed, "sharding")

    def _shortened(self, plan: FinetunePlan, changed: Fields) -> Iterator[tuple[FinetunePlan, Fields]]:
        length = plan.max_length // 2
        while length >= SHORTEST_LENGTH and self.allows("max_length"):
            yield from self._sharded(self._with(plan, max_length=length), (*changed, "max_length"))
            length //= 2

    def _with(self, plan: FinetunePlan, **values: Any) -> FinetunePlan:
        """Return a plan with other values and everything that follows from them."""
        if "r" in values and self.allows("lora_alpha"):
            values["lora_alpha"] = plan.alpha_at(values["r"])
        if "sharding" in values:
            moved = sharing.needed(plan, values["sharding"])
            values |= {name: value for name, value in moved.items() if self.allows(name)}
        return dataclasses.replace(plan, **values)

    def _smallest(self, plan: FinetunePlan) -> FinetunePlan:
        """Return a plan with one sequence at a time and checkpointing."""
        one = self.rebatched(plan, 1)
        if not self.allows("gradient_checkpointing", plan.method):
            return one
        return dataclasses.replace(one, gradient_checkpointing=True)

    def _refined(self, plan: FinetunePlan, headroom: float) -> FinetunePlan | None:
        """Return the fastest form of a plan that leaves the headroom; None if even the smallest does not."""
        proposed = plan.per_device_train_batch_size
        on = self._largest(self._smallest(plan), powers_of_two(1, proposed), headroom)
        if on is None or not self._may_keep_activations(plan):
            return on
        spare = headroom if self.situation.goal == "speed" or self.situation.gpu.is_cpu else SPARE_WITHOUT_CHECKPOINTING
        one = dataclasses.replace(self.rebatched(plan, 1), gradient_checkpointing=False)
        reached = on.per_device_train_batch_size
        return self._largest(one, powers_of_two(max(1, reached // 2), reached), spare) or on

    def _may_keep_activations(self, plan: FinetunePlan) -> bool:
        """Return whether checkpointing may be switched off: QLoRA keeps it unless speed is the goal."""
        if not self.allows("gradient_checkpointing", plan.method) or self.situation.goal == "memory":
            return False
        return plan.quantization == "none" or self.situation.goal == "speed" or self.situation.gpu.is_cpu

    def _largest(self, plan: FinetunePlan, batches: Sequence[int], headroom: float) -> FinetunePlan | None:
        """Return a plan with the largest of several micro-batches that leaves the headroom; None if none does."""
        tried = batches if self.allows("per_device_train_batch_size") else batches[-1:]
        candidates = (self.rebatched(plan, micro) for micro in reversed(tried))
        return next((candidate for candidate in candidates if self.leaves_free(candidate, headroom)), None)


def powers_of_two(least: int, most: int) -> tuple[int, ...]:
    """Return the powers of two from ``least`` to ``most``."""
    return tuple(2**power for power in range(least.bit_length() - 1, most.bit_length()))


def same_in_memory(plan: FinetunePlan) -> FinetunePlan:
    """Return the plan that stands for all plans with the same memory, which may differ in learning rate or schedule."""
    several = min(plan.gradient_accumulation_steps, 2)
    return dataclasses.replace(plan, gradient_accumulation_steps=several, **_IRRELEVANT_TO_MEMORY)


def drafted(situation: Situation, method: str, rules: Sequence[Rule]) -> FinetunePlan:
    """Return the plan that the rules propose under a method; fields fixed by the person or the method are kept."""
    plan = starting_plan(situation, method)
    for rule in rules:
        if rule.field in situation.pins or rule.field in METHODS[method].preset or not rule.applies(plan):
            continue
        value = rule.decide(situation, plan).value
        if getattr(plan, rule.field) != value:
            plan = dataclasses.replace(plan, **{rule.field: value})
    return plan.with_sharding(plan.sharding, fixed={*situation.pins, *METHODS[method].preset})


def starting_plan(situation: Situation, method: str) -> FinetunePlan:
    """Return the plan before any rule: the model, the devices, the method, and the pinned fields.

    Raises:
        PlanError: If pinned fields contradict each other.
    """
    values = dict(situation.pins)
    values.pop("method", None)
    if situation.num_gpus > 1:
        values.setdefault("sharding", "ddp")
    values.setdefault("task_type", situation.task_type)
    values.setdefault("num_labels", situation.num_labels)
    if TASK_TYPES[values["task_type"]].uses("num_negatives"):
        values.setdefault("embedding_loss", "CoSENTLoss" if situation.has_scores else "MultipleNegativesRankingLoss")
        values.setdefault("num_negatives", 0 if situation.has_scores else situation.num_negatives)
    name = situation.model_name_or_path or situation.model.name
    return FinetunePlan.for_method(method, name, num_gpus=situation.num_gpus, **values)


def _compatible(methods: Sequence[str], situation: Situation) -> tuple[str, ...]:
    """Return the methods that are compatible with the pinned fields: those that use all of them, if there are any."""
    found = tuple(method for method in methods if is_compatible(method, situation))
    return tuple(method for method in found if all(map(METHODS[method].uses, situation.pins))) or found


def is_compatible(method: str, situation: Situation) -> bool:
    """Return whether a method is compatible with the pinned fields of a situation."""
    preset = METHODS[method].preset
    if any(situation.pins.get(name, value) != value for name, value in preset.items()):
        return False
    try:
        starting_plan(situation, method)
    except PlanError:
        return False
    return True
