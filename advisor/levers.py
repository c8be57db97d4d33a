"""The alternatives: other methods as a table, and single changes with the bytes that each saves."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from advisor import speed
from advisor.advice import spelled
from advisor.rules.batch import ACTIVATIONS_COST, CHECKPOINTING_COST, LAYERS_COST
from advisor.search import PAGED, SHORTEST_LENGTH, SMALLEST_RANK, Fit, Search
from advisor.situation import Situation
from specs import METHODS, TASK_TYPES, FinetunePlan, TraceError, gib

MORE_DEVICES = (2, 4, 8)
"""Multiples of the number of devices to try for a plan that does not fit."""

OFFLOAD_COST = "keeps what is sharded in RAM: about 60% fewer tokens per second"
"""FSDP with CPU offload in torchtune: 63% less memory, 60% fewer tokens per second, github pytorch/ao issue 1213."""

WORTH_A_TRACE = 0.05
"""Share of the memory that the layer inputs which checkpointing keeps must have to be offered a place in RAM."""
_BYTES_16BIT = 2

RANK_COST = "a smaller adapter learns less"

_QUALITY = {
    "full": "trains every weight; forgets most",
    "lora": "like full fine-tuning until the data outgrows the adapter",
    "lora-8bit": "between LoRA and QLoRA",
    "qlora": "like LoRA in the QLoRA paper's tests, slightly worse elsewhere",
}
"""What to expect of each method: QLoRA https://arxiv.org/abs/2305.14314 table 4; LitGPT's resource tables, validation
losses .794 and .803, .888 and .939 for LoRA and QLoRA; full fine-tuning https://arxiv.org/abs/2405.09673."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Another plan for the same situation."""

    label: str
    plan: FinetunePlan
    used_bytes: int
    fits: bool
    quality: str
    """What to expect of the result, in words."""
    relative_time: float | None
    """Time for the same data, divided by that of the recommended plan; None if unknown."""
    recommended: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the alternative as plain JSON values."""
        return dataclasses.asdict(self) | {"plan": self.plan.to_dict()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lever:
    """One change to the recommended plan, and what it saves."""

    field: str
    before: Any
    after: Any
    saved_bytes: int
    used_bytes: int
    fits: bool
    cost: str
    """What it costs in time or quality."""
    plan: FinetunePlan

    @property
    def text(self) -> str:
        """The lever in one line, such as ``max_length 2048 -> 1024: -3.1 GiB, fits``."""
        verdict = "fits" if self.fits else "does not fit yet"
        return f"{self.field} {spelled(self.before)} -> {spelled(self.after)}: -{gib(self.saved_bytes)}, {verdict}"

    def to_dict(self) -> dict[str, Any]:
        """Return the lever as plain JSON values."""
        return dataclasses.asdict(self) | {"plan": self.plan.to_dict(), "text": self.text}


def alternatives(search: Search, fit: Fit) -> tuple[Alternative, ...]:
    """Return the chosen plan, the best plan of every common method, and the smallest of all."""
    entries = [_alternative(search, fit, fit, METHODS[fit.plan.method].label)]
    for method in _others(search, fit):
        with contextlib.suppress(TraceError):  # what cannot be priced cannot be offered
            other = search.best_of(method)
            entries.append(_alternative(search, other, fit, METHODS[method].label))
    if search.allows("method") and search.allows("gradient_checkpointing"):
        with contextlib.suppress(TraceError):
            smallest = search.smallest_of("qlora")
            # Where nothing fits, the chosen plan is shortened further than this one.
            if smallest.estimate.used_bytes < fit.estimate.used_bytes:
                entries.append(_alternative(search, smallest, fit, "Smallest QLoRA"))
    return tuple(entries)


def levers(search: Search, fit: Fit) -> tuple[Lever, ...]:
    """Return the single changes that save memory, least harmful first."""
    used = fit.estimate.used_bytes
    found = []
    for name, plan, cost in _changes(search, fit.plan):
        try:
            after = search.estimate(plan).used_bytes
        except TraceError:  # what cannot be priced cannot be offered
            continue
        if after < used:
            found.append(
                Lever(
                    field=name,
                    before=getattr(fit.plan, name),
                    after=getattr(plan, name),
                    saved_bytes=used - after,
                    used_bytes=after,
                    fits=after <= search.situation.available_bytes,
                    cost=cost,
                    plan=plan,
                )
            )
    return tuple(found)


def unpriced(situation: Situation, plan: FinetunePlan) -> Iterator[tuple[str, FinetunePlan, str]]:
    """Yield changes that save memory, for a model that cannot be estimated: the field, the plan, and what it costs."""
    if plan.per_device_train_batch_size > 1:
        micro, steps = plan.per_device_train_batch_size // 2, plan.gradient_accumulation_steps * 2
        halved = dataclasses.replace(plan, per_device_train_batch_size=micro, gradient_accumulation_steps=steps)
        yield "per_device_train_batch_size", halved, "slower steps, same result"
    if not plan.gradient_checkpointing and "gradient_checkpointing" not in METHODS[plan.method].preset:
        yield "gradient_checkpointing", dataclasses.replace(plan, gradient_checkpointing=True), CHECKPOINTING_COST
    if plan.max_length // 2 >= SHORTEST_LENGTH:
        shorter = dataclasses.replace(plan, max_length=plan.max_length // 2)
        yield "max_length", shorter, situation.truncated(shorter.max_length)
    if METHODS[plan.method].has_rank and plan.r > SMALLEST_RANK:
        yield "r", with_rank(plan, plan.r // 2), RANK_COST


def _others(search: Search, fit: Fit) -> tuple[str, ...]:
    """Return the methods worth comparing with the chosen one."""
    if not search.allows("method"):
        return ()
    return tuple(name for name in ("full", "lora", "qlora") if name != fit.plan.method and search.is_compatible(name))


def _alternative(search: Search, entry: Fit, chosen: Fit, label: str) -> Alternative:
    method = entry.plan.method
    return Alternative(
        label=label,
        plan=entry.plan,
        used_bytes=entry.estimate.used_bytes,
        fits=entry.fits,
        quality="; ".join(filter(None, (_QUALITY.get(method, METHODS[method].summary), _cut(search, entry, chosen)))),
        relative_time=speed.relative_time(search.situation, entry.plan, chosen.plan),
        recommended=entry is chosen,
    )


def _cut(search: Search, entry: Fit, chosen: Fit) -> str:
    """Return how many rows a plan truncates if it truncates more than the chosen one does; else nothing."""
    now, then = (search.situation.truncated(fit.plan.max_length) for fit in (chosen, entry))
    return then if entry.plan.max_length < chosen.plan.max_length and now != then else ""


def _changes(search: Search, plan: FinetunePlan) -> Iterator[tuple[str, FinetunePlan, str]]:
    """Yield each change still open to this plan: the field, the changed plan, and what it costs."""
    if plan.per_device_train_batch_size > 1 and search.allows("per_device_train_batch_size"):
        halved = search.rebatched(plan, plan.per_device_train_batch_size // 2)
        yield "per_device_train_batch_size", halved, "slower steps, same result"
    if not plan.gradient_checkpointing and search.allows("gradient_checkpointing", plan.method):
        yield "gradient_checkpointing", dataclasses.replace(plan, gradient_checkpointing=True), CHECKPOINTING_COST
    elif plan.gradient_checkpointing and plan.every_n_layers > 1 and search.allows("every_n_layers"):
        yield "every_n_layers", dataclasses.replace(plan, every_n_layers=1), CHECKPOINTING_COST
    if plan.loss == "full" and TASK_TYPES[plan.task_type].uses("loss"):
        yield "loss", dataclasses.replace(plan, loss="chunked"), "nothing"
    if plan.max_length // 2 >= SHORTEST_LENGTH:
        shorter = _shorter(search, plan)
        yield "max_length", shorter, search.situation.truncated(shorter.max_length)
    if plan.method in {"full", "lora", "lora-8bit"}:
        smaller = "lora" if plan.method == "full" else "qlora"
        if search.is_compatible(smaller):
            cost = (
                "trains only an adapter"
                if smaller == "lora"
                else "expands weights in every pass, slightly worse at most"
            )
            yield "method", search.under_method(plan, smaller), cost
    yield from _late_changes(search, plan)
    yield from _device_changes(search, plan)


def _device_changes(search: Search, plan: FinetunePlan) -> Iterator[tuple[str, FinetunePlan, str]]:
    """Yield the changes that use memory elsewhere: RAM, or more devices."""
    if not search.leaves_free(plan, 0.0):
        yield from _ram_changes(search, plan)
    if plan.sharding == "fsdp" and plan.offload == "none" and search.allows("offload"):
        yield "offload", dataclasses.replace(plan, offload="all"), OFFLOAD_COST
    more = _more_devices(search, plan)
    if more is not None:
        cost = f"needs {more.num_gpus} devices, each with its shard of the weights (fsdp)"
        yield "num_gpus", more, cost


def _ram_changes(search: Search, plan: FinetunePlan) -> Iterator[tuple[str, FinetunePlan, str]]:
    """Yield what lets a plan that does not fit wait in RAM, each with its time."""
    if search.situation.gpu.backend in {"cpu", "mps"}:
        return
    if _may_stream(plan) and search.allows("layer_offloading"):
        streamed = dataclasses.replace(plan, layer_offloading=True)
        yield "layer_offloading", streamed, _with_time(search, streamed, plan, LAYERS_COST)
    if _keeps_inputs(search.situation, plan) and search.allows("activation_offloading"):
        waiting = dataclasses.replace(plan, activation_offloading=True)
        yield "activation_offloading", waiting, _with_time(search, waiting, plan, ACTIVATIONS_COST)


def _may_stream(plan: FinetunePlan) -> bool:
    return plan.load_in_4bit and plan.num_gpus == 1 and plan.task_type == "CAUSAL_LM" and not plan.layer_offloading


def _keeps_inputs(situation: Situation, plan: FinetunePlan) -> bool:
    """Return whether the layer inputs that checkpointing keeps are a share of the memory worth the wait for a trace."""
    model, tokens = situation.model, plan.per_device_train_batch_size * plan.max_length
    kept = _BYTES_16BIT * model.hidden_size * plan.recomputed_layers(model.num_hidden_layers) * tokens
    return not plan.activation_offloading and kept >= WORTH_A_TRACE * situation.available_bytes


def _with_time(search: Search, changed: FinetunePlan, plan: FinetunePlan, words: str) -> str:
    share = speed.relative_time(search.situation, changed, plan)
    return words if share is None else f"{words}; about {share - 1:.0%} more time"


def _more_devices(search: Search, plan: FinetunePlan) -> FinetunePlan | None:
    """Return a plan that does not fit, sharded over the fewest additional devices on which it does; else None."""
    has_own_memory = search.situation.gpu.backend not in {"cpu", "mps"}
    if plan.layer_offloading or not has_own_memory or search.leaves_free(plan, 0.0) or not search.allows("sharding"):
        return None
    sharded = (search.sharded_over(plan, plan.num_gpus * factor) for factor in MORE_DEVICES)
    return next((wider for wider in sharded if search.leaves_free(wider, 0.0)), None)


def _shorter(search: Search, plan: FinetunePlan) -> FinetunePlan:
    """Return a plan with its length halved until it fits; if none fits, the shortest."""
    halved = dataclasses.replace(plan, max_length=plan.max_length // 2)
    while not search.leaves_free(halved, 0.0) and halved.max_length // 2 >= SHORTEST_LENGTH:
        halved = dataclasses.replace(halved, max_length=halved.max_length // 2)
    return halved


def _late_changes(search: Search, plan: FinetunePlan) -> Iterator[tuple[str, FinetunePlan, str]]:
    if plan.optim not in {PAGED, "adamw_8bit"} and search.may_page(plan):
        yield "optim", dataclasses.replace(plan, optim=PAGED), "8-bit states, paged out at a peak"
    if METHODS[plan.method].has_rank and plan.r > SMALLEST_RANK:
        yield "r", with_rank(plan, plan.r // 2), RANK_COST


def with_rank(plan: FinetunePlan, r: int) -> FinetunePlan:
    """Return a plan with another rank, and the ``lora_alpha`` that goes with it."""
    return dataclasses.replace(plan, r=r, lora_alpha=plan.alpha_at(r))
