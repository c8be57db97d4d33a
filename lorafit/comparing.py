"""A plan moved along its settings (model, card, method, any of its fields), and what each of its variants needs."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from advisor import Situation
from advisor.rules import RULE_SETS
from advisor.search import drafted
from catalog import gpus, models
from estimator.estimate import MemoryEstimate
from lorafit.asked import listed
from specs import METHODS, FinetunePlan, GpuSpec, LorafitError, ModelSpec, PlanError
from specs.errors import nearest

MOST = 500
"""Variants of one comparison: more nobody reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What an estimate is made for: a model, a plan, a device."""

    model: ModelSpec
    plan: FinetunePlan
    gpu: GpuSpec
    as_priced: Callable[[FinetunePlan], FinetunePlan]
    """The plan whose memory a plan has on the data."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination: its estimate, or a sentence that says why there is none."""

    estimate: MemoryEstimate | None
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One plan of a comparison, by what makes it different."""

    settings: Mapping[str, Any]
    """The value of each setting that is varied."""
    estimate: MemoryEstimate | None
    refusal: str
    """Why there is no estimate, in one sentence; empty if there is one."""

    def to_dict(self) -> dict[str, Any]:
        """Return the variant as plain JSON values."""
        found = {"refusal": self.refusal} if self.estimate is None else {"estimate": self.estimate.to_dict()}
        return {"settings": dict(self.settings), **found}


Move = Callable[[Point], Point]
Price = Callable[[ModelSpec, FinetunePlan, GpuSpec], MemoryEstimate]


def begun(situation: Situation, plan: FinetunePlan, gpu: GpuSpec, settings: Iterable[str]) -> Point:
    """Return a plan as the point to move from along some settings.

    Where the length is varied, sequences of that length are priced, whatever the data's longest row.
    """
    if "max_length" in settings:
        situation = replace(situation, dataset_tokens=None)
    return Point(model=situation.model, plan=plan, gpu=gpu, as_priced=situation.as_priced)


def moved(point: Point, moves: Iterable[Move]) -> Point | Cell:
    """Return the point with other values, or why there is none."""
    try:
        for move in moves:
            point = move(point)
    except LorafitError as error:
        return Cell(None, str(error))
    return point


def priced(point: Point, moves: Iterable[Move], price: Price) -> Cell:
    """Return what the point needs with other values, or why it cannot be told."""
    found = moved(point, moves)
    if isinstance(found, Cell):
        return found
    try:
        return Cell(price(found.model, found.as_priced(found.plan), found.gpu))
    except LorafitError as error:
        return Cell(None, str(error))


def with_model(point: Point, name: str) -> Point:
    """Return a point with another model, and with its own target modules where it lacks those of the plan."""
    if name == point.model.name:
        return point
    model, plan = models.find(name), point.plan
    named = plan.target_modules
    if model.linear_modules and not isinstance(named, str) and not set(named) <= set(model.linear_modules):
        plan = replace(plan, target_modules=_drafted(model, point.gpu, plan).target_modules)
    return replace(point, model=model, plan=plan)


def with_method(point: Point, method: str) -> Point:
    """Return a point with another method."""
    return replace(point, plan=under(point.plan, method))


def with_field(point: Point, name: str, value: Any) -> Point:
    """Return a point with another value of one field of its plan."""
    return replace(point, plan=replace(point.plan, **{name: listed(name, value)}))


def on_device(point: Point, name: str, own: GpuSpec) -> Point:
    """Return a point on another device, with the number formats that this device supports.

    Args:
        point: The point.
        name: The name of a card, or of ``own``.
        own: The device of the comparison, which may not be in the catalog.
    """
    if name == own.name:
        return replace(point, gpu=own)
    gpu = gpus.find(name)
    wish = _drafted(point.model, gpu, point.plan)
    formats = {field: getattr(wish, field) for field in ("dtype", "bf16", "fp16", "adapter_dtype")}
    return replace(point, gpu=gpu, plan=replace(point.plan, **formats))


def _drafted(model: ModelSpec, gpu: GpuSpec, plan: FinetunePlan) -> FinetunePlan:
    """Return what the rules wish for a model on a card, with the task and the method of a plan."""
    situation = Situation(model=model, gpu=gpu, data_task_type=plan.task_type, num_labels=plan.num_labels)
    return drafted(situation, plan.method, RULE_SETS["evidence"])


def under(plan: FinetunePlan, method: str) -> FinetunePlan:
    """Return a plan with another method, without the options that the method does not have."""
    if method == plan.method:
        return plan
    plain = replace(plan, prepare_kbit=False).with_method("lora")
    if not METHODS[method].uses("use_dora"):
        plain = replace(plain, use_dora=False, use_rslora=False, loraplus_lr_ratio=None)
    if not METHODS[method].trains_adapter:
        plain = replace(plain, dtype="float32" if plan.fp16 else plan.dtype)
    return plain.with_method(method)


_FIELDS = tuple(entry.name for entry in dataclasses.fields(FinetunePlan) if entry.name != "model_name_or_path")
_SETTINGS = ("model", "gpu", *_FIELDS)
"""What can be varied."""


def variants(point: Point, vary: Mapping[str, Sequence[Any]], price: Price) -> tuple[Variant, ...]:
    """Return every combination of the values of some settings, the last setting changing fastest.

    Raises:
        PlanError: If there is no such setting, no value, or too many combinations.
    """
    _require_settings(vary)
    own, found = point.gpu, []
    # The model comes first and then the card, whatever was named first: each decides what the next one may be.
    order = sorted(vary, key=lambda name: _SETTINGS.index(name))
    for values in itertools.product(*vary.values()):
        settings = dict(zip(vary, values, strict=True))
        cell = priced(point, [_move(name, settings[name], own) for name in order], price)
        found.append(Variant(settings=settings, estimate=cell.estimate, refusal=cell.refusal))
    return tuple(found)


def _require_settings(vary: Mapping[str, Sequence[Any]]) -> None:
    if not vary:
        raise PlanError("vary", "must name a setting with its values", None, "Such as method: lora, qlora")
    for name, values in vary.items():
        if name not in _SETTINGS:
            rule = "is neither model nor gpu nor a field of the plan"
            raise PlanError(f"vary: {name}", rule, None, nearest(name, _SETTINGS))
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise PlanError(f"vary: {name}", "must be a list of values", values)
    number = math.prod(len(values) for values in vary.values())
    if number > MOST:
        raise PlanError("vary", f"must make at most {MOST} combinations", number, "Vary less at once")


def _move(name: str, value: Any, own: GpuSpec) -> Move:
    """Return what changes one setting of a point.

    Raises:
        PlanError: If a model, a card or a method is no name.
    """
    if name in {"model", "gpu", "method"} and not isinstance(value, str):
        raise PlanError(f"vary: {name}", "must be a list of names", value)
    if name == "model":
        return lambda point: with_model(point, value)
    if name == "gpu":
        return lambda point: on_device(point, value, own)
    if name == "method":
        if value not in METHODS:
            raise PlanError("vary: method", "must be one that LoRAFit knows", value, nearest(value, [*METHODS]))
        return lambda point: with_method(point, value)
    return lambda point: with_field(point, name, value)
