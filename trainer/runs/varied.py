"""From what somebody wants to vary to the plans of a race or an ablation, which share one loaded model. Pure."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from specs import FinetunePlan, PlanError
from specs.doors.door import setting
from specs.effect import require_effect
from specs.fields import NAMES, NUMBERS
from trainer.runs.race import Race, shown, steps_at

MOST_TRIALS = 8
"""With more, the first of them would be dropped after a tenth of their steps, when little can be told of a rate."""

MOST_TRAININGS = 200
"""Trainings of an ablation. A choice: ranks 1 to 64 by six sets of modules with three seeds are 126."""

VARIED = frozenset(
    {
        "method",
        *("learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "max_grad_norm"),
        *("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora", "init_lora_weights"),
        *("loraplus_lr_ratio", "rank_pattern", "alpha_pattern", "init_r", "target_r", "tinit", "tfinal", "deltaT"),
        "layers_to_transform",
        *(
            "oft_block_size",
            "decompose_factor",
            "num_virtual_tokens",
            "prompt_tuning_init",
        ),
        *("per_device_train_batch_size", "gradient_accumulation_steps"),
    }
)
"""The fields in which plans of one race may differ: they leave the base model as it is loaded, and the same rows."""

_COMMA = re.compile(r",(?![^{}]*\})")
"""A comma between values: no closing brace comes after it before another one opens."""


def race_of(plan: FinetunePlan, texts: Sequence[str], *, repeats: int = 0) -> Race:
    """Return the race of a plan for texts such as ``learning_rate=1e-4,2e-4``: every value with every other field's.

    The names of several modules are joined by ``+``. Where ``r`` differs and ``lora_alpha`` is not named, that follows
    the rank as in the advice: otherwise the scale would differ more than the rank.

    Args:
        plan: What all have in common.
        texts: What they differ in.
        repeats: For an ablation, with how many seeds each is trained; 0 for a race.

    Raises:
        PlanError: If a plan is refused, too few or too many take part, they need different base models, or the training
            is too short.
    """
    pairs = [text.partition("=") for text in texts]
    names = [name for name, _, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PlanError("--vary", "must name each field once", twice, "Write all its values in one --vary")
    if "seed" in names:
        raise PlanError("--vary", "must name what makes a difference by itself", "seed", "Use ablate with --seeds")
    options = [
        [setting("--vary", f"{name}{equals}{one}") for one in _values(name, text)] for name, equals, text in pairs
    ]
    count, most = math.prod(map(len, options)), MOST_TRAININGS // repeats if repeats else MOST_TRIALS
    if not 2 <= count <= most:
        rule = f"must give 2 to {most} plans to compare"
        raise PlanError("--vary", rule, count, "Write it as learning_rate=1e-4,2e-4,4e-4")
    combinations = [dict(chosen) for chosen in itertools.product(*options)]
    once = [_varied(plan, values) for values in combinations]
    plans = [dataclasses.replace(one, seed=one.seed + number) for one in once for number in range(max(1, repeats))]
    if len(set(plans)) < len(plans):
        raise PlanError("--vary", "must give plans that differ", "a value twice", "Leave one out")
    for one in plans:
        require_effect(one, names, option="--vary")
        _require_together(plan, one)
    differing = sorted({name for one in plans for name in _differing(plan, one)})
    each = [one.to_dict() for one in plans]
    race = Race(
        varied=tuple(names),
        changes=tuple({name: values[name] for name in differing} for values in each),
        own=plans.index(plan) if plan in plans else None,
        repeats=repeats,
    )
    if plan.max_steps > 0 and not repeats:
        for share in race.rungs:
            steps_at(share, plan.max_steps)
    return race


def _varied(plan: FinetunePlan, values: Mapping[str, Any]) -> FinetunePlan:
    """Return a plan with some values; a ``lora_alpha`` that is none of them follows the rank.

    Where alpha / sqrt(r) becomes the scale of the update instead of alpha / r, or the other way round, the scale at the
    plan's own rank stays.
    """
    found = with_values(plan, values)
    if "lora_alpha" in values:
        return found
    alpha = plan.alpha_at(found.r)
    if found.use_rslora and not plan.use_rslora:
        alpha = max(1, round(plan.lora_alpha / math.sqrt(plan.r)))
    elif plan.use_rslora and not found.use_rslora:
        alpha = max(1, round(plan.lora_alpha * math.sqrt(found.r)))
    return dataclasses.replace(found, lora_alpha=alpha)


def with_values(plan: FinetunePlan, values: Mapping[str, Any]) -> FinetunePlan:
    """Return a plan with fields set; a new ``method`` or ``sharding`` sets its fields first.

    Raises:
        PlanError: If the plan refuses the values.
    """
    method = values.get("method", plan.method)
    base = plan if method == plan.method else plan.with_method(str(method))
    wished = FinetunePlan.from_dict({**base.to_dict(), **values})
    return wished if wished.sharding == plan.sharding else wished.with_sharding(wished.sharding, fixed=values)


def _values(name: str, text: str) -> Iterator[str]:
    """Yield the texts of a field's values; a comma within the braces of a mapping divides none."""
    for one in _COMMA.split(text):
        yield one.replace("+", ",") if name in NAMES else f"[{one.replace('+', ',')}]" if name in NUMBERS else one


def _differing(plan: FinetunePlan, other: FinetunePlan) -> list[str]:
    """Return the fields in which two plans differ."""
    names = [entry.name for entry in dataclasses.fields(plan)]
    return [name for name in names if getattr(plan, name) != getattr(other, name)]


_GIVEN_ALONG = frozenset({"seed"})
"""What differs in an ablation although nobody names it."""


def _require_together(plan: FinetunePlan, other: FinetunePlan) -> None:
    """Refuse a trial that cannot use the base model and the rows of the others.

    Raises:
        PlanError: Names the field.
    """
    strange = next((name for name in _differing(plan, other) if name not in VARIED | _GIVEN_ALONG), None)
    if strange is not None:
        rule = "cannot differ within a race, whose plans share one loaded model and its rows"
        raise PlanError(strange, rule, shown(getattr(other, strange)), "Start two runs and compare them")
    if not other.keeps_base:
        rule = "must leave the base model unchanged in a race, whose plans share it"
        raise PlanError("method", rule, other.method, "Choose an adapter, bias none, and neither pissa nor olora")
    if other.task_type == "FEATURE_EXTRACTION":
        raise PlanError("task_type", "cannot be raced", other.task_type, "Start two runs and compare them")
    if other.num_gpus > 1:
        raise PlanError("num_gpus", "must be 1 in a race", other.num_gpus, "Race on one, then run the winner's plan")
    for name in ("modules_to_save", "trainable_token_indices"):
        if getattr(other, name):
            rule = "must be empty in a race, whose plans share the model that it would change"
            raise PlanError(name, rule, shown(getattr(other, name)), "Start two runs and compare them")
    if other.layer_offloading:
        rule = "must be off in a race: adapters begin with the weights of layers, which would wait in RAM"
        raise PlanError("layer_offloading", rule, None, "Start two runs and compare them")
