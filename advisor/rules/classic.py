"""The textbook's rules unchanged: its table, starter recipe, and rules for data and task."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from advisor import sources
from advisor.advice import Advice, Confidence, Rule
from advisor.rules import evidence
from advisor.rules.method import within_method
from advisor.rules.textbook import LARGE_DATA_ROWS, SMALL_DATA_ROWS, STARTER_RECIPE, TASK_RANKS, decisions, row
from advisor.situation import Situation
from specs import METHODS, FinetunePlan

_ROLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "q": frozenset({"q_proj", "q_a_proj", "q_b_proj", "query", "query_key_value", "qkv_proj", "c_attn", "Wqkv"}),
        "k": frozenset({"k_proj", "kv_a_proj_with_mqa", "key", "query_key_value", "qkv_proj", "c_attn", "Wqkv"}),
        "v": frozenset({"v_proj", "kv_b_proj", "value", "query_key_value", "qkv_proj", "c_attn", "Wqkv"}),
        "o": frozenset({"o_proj", "out_proj", "dense", "c_proj"}),
    }
)


_CHECKPOINTED_FROM = 7.0
"""Billions of parameters: the textbook fits LoRA on 7B into 24 GB, which needs checkpointing."""


def method(situation: Situation) -> str:
    """Return the method of the table's row, unless the person set one."""
    pinned: str | None = situation.pins.get("method")
    return pinned or row(situation).method


def method_advice(situation: Situation) -> Advice:
    """Return the row of the table that the method comes from."""
    entry = row(situation)
    least, most = entry.memory_gib
    span = f"{least:g} GB or more" if math.isinf(most) else f"{least:g} to {most:g} GB"
    fixed = "You set this; the table says: " if "method" in situation.pins else ""
    return Advice(
        field="method",
        value=method(situation),
        range=(entry.method,),
        reason=f"{fixed}{situation.phrase('model')} on {situation.gpu.name} is nearest to row {entry.size} with "
        f"{span}: {METHODS[entry.method].label}.{_matrix(situation)}",
        source=sources.TEXTBOOK.at(f"row {entry.size}, {METHODS[entry.method].label}"),
        confidence=Confidence.LOW,
    )


def _matrix(situation: Situation) -> str:
    """Return what the decision matrix says about a situation, as a sentence to append."""
    said = [f"{entry.given} -> {entry.answer}" for entry in decisions(situation)]
    return f" The decision matrix decides: {'; '.join(said)}." if said else ""


def _data(situation: Situation) -> str:
    """Return whether the textbook calls the data small, large or neither."""
    rows = situation.dataset_rows
    if rows is not None and rows < SMALL_DATA_ROWS:
        return "small"
    if situation.task == "domain" or (rows is not None and rows >= LARGE_DATA_ROWS):
        return "large"
    return "ordinary"


def _advice(situation: Situation, field: str, value: Any, span: tuple[Any, ...], why: str) -> Advice:
    entry = row(situation)
    return Advice(
        field=field,
        value=value,
        range=span,
        reason=f"Row {entry.size} {METHODS[entry.method].label} for {situation.phrase('size')}: {why}.",
        source=sources.TEXTBOOK.at(f"row {entry.size}"),
        confidence=Confidence.LOW,
    )


def r(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Take the task's rank within the row's range; its low end for small data, its high end for large."""
    least, most = row(situation).r
    value = min(most, max(least, TASK_RANKS.get(situation.task, TASK_RANKS["classification"])))
    value = {"small": least, "large": most, "ordinary": value}[_data(situation)]
    why = f"r {least}-{most}, and {value} for {situation.phrase('task')} with {_data(situation)} data"
    return _advice(situation, "r", value, (least, most), why)


def lora_alpha(situation: Situation, plan: FinetunePlan) -> Advice:
    """Place alpha in its range where r is in its own."""
    (least, most), (low, high) = row(situation).r, row(situation).lora_alpha
    share = min(1.0, max(0.0, (plan.r - least) / (most - least)))
    value = round(low + share * (high - low))
    return _advice(situation, "lora_alpha", value, (low, high), f"lora_alpha {low}-{high} goes with r = {plan.r}")


def lora_dropout(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Take the row's low end; more for small data, none for large."""
    low, high = row(situation).lora_dropout
    value = {"small": 0.1, "large": 0.0, "ordinary": low}[_data(situation)]
    span = (min(low, value), max(high, value))
    return _advice(situation, "lora_dropout", value, span, f"dropout for {_data(situation)} data")


def learning_rate(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Start at 2e-4 within the row's range; its low end for small data, its high end for large."""
    low, high = row(situation).learning_rate
    ordinary = min(high, max(low, STARTER_RECIPE["learning_rate"]))
    value = {"small": low, "large": high, "ordinary": ordinary}[_data(situation)]
    why = f"learning rate {low:g} to {high:g}, and {value:g} for {_data(situation)} data"
    return _advice(situation, "learning_rate", value, (low, high), why)


def target_modules(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Take the row's roles under the model's own names; q and v for small data, all of attention for large."""
    roles = row(situation).targets
    if _data(situation) == "small":
        roles = "qv"
    elif _data(situation) == "large" and "m" not in roles:
        roles = "qkvo"
    value = named(roles, situation.modules)
    why = f"{' and '.join(roles)} are {', '.join(value)} in {situation.model.model_type}"
    return _advice(situation, "target_modules", value, (value,), why.replace("m ", "feed-forward "))


def named(roles: str, modules: tuple[str, ...]) -> tuple[str, ...]:
    """Return the modules with the given roles: q, k, v, o, and m for all others."""
    attention = frozenset[str]().union(*_ROLES.values())
    wanted = frozenset[str]().union(*(_ROLES[role] for role in roles if role in _ROLES))
    return tuple(name for name in modules if name in wanted or ("m" in roles and name not in attention)) or modules


def bnb_4bit_use_double_quant(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Quantize the constants in the rows that say so: 33B and 65B."""
    value = row(situation).double_quant
    why = f"double quantization is {'on' if value else 'not mentioned'} in this row"
    return _advice(situation, "bnb_4bit_use_double_quant", value, (value,), why)


def prepare_kbit(situation: Situation, plan: FinetunePlan) -> Advice:
    """Call prepare_model_for_kbit_training before the adapter is added."""
    why = f"the textbook calls prepare_model_for_kbit_training under {plan.method}"
    value = plan.quantization != "none"
    return _advice(situation, "prepare_kbit", value, (value,), why)


def optim(situation: Situation, plan: FinetunePlan) -> Advice:
    """Use a paged optimizer with QLoRA."""
    value = "paged_adamw_32bit" if plan.quantization == "4bit" else "adamw_torch"
    return _advice(situation, "optim", value, (value,), f"{value} under {plan.method}")


def gradient_checkpointing(situation: Situation, plan: FinetunePlan) -> Advice:
    """Use checkpointing with quantized weights, whose preparation turns it on, and for models from 7B up."""
    prepared = plan.quantization != "none"
    value = prepared or row(situation).billions >= _CHECKPOINTED_FROM
    why = (
        f"prepare_model_for_kbit_training turns checkpointing on under {plan.method}"
        if prepared
        else f"checkpointing, meant for large models, is {'on' if value else 'off'} under {plan.method}"
    )
    return _advice(situation, "gradient_checkpointing", value, (value,), why)


def _recipe(field: str) -> Callable[[Situation, FinetunePlan], Advice]:
    """Return the rule that takes a field from the starter recipe."""

    def decide(situation: Situation, _plan: FinetunePlan) -> Advice:
        value = STARTER_RECIPE[field]
        advice = _advice(situation, field, value, (value,), f"the starter recipe has {field} {value}")
        return dataclasses.replace(advice, source=sources.TEXTBOOK.at("starter recipe"))

    return decide


_OWN: Mapping[str, tuple[Callable[[Situation, FinetunePlan], Advice], tuple[str, ...]]] = {
    "r": (r, ("size", "task")),
    "lora_alpha": (lora_alpha, ("size", "r")),
    "lora_dropout": (lora_dropout, ("size",)),
    "learning_rate": (learning_rate, ("size",)),
    "target_modules": (target_modules, ("size", "model_type")),
    "bnb_4bit_use_double_quant": (bnb_4bit_use_double_quant, ("size",)),
    "prepare_kbit": (prepare_kbit, ("size", "method")),
    "optim": (optim, ("size", "method")),
    "gradient_checkpointing": (gradient_checkpointing, ("size", "method")),
}


def _classic(rule: Rule) -> Rule:
    """Return the textbook's rule for a field, or the evidence rule if the textbook has none."""
    if rule.field in _OWN:
        decide, uses = _OWN[rule.field]
        return dataclasses.replace(rule, decide=decide, uses=uses)
    if rule.field in STARTER_RECIPE:
        return dataclasses.replace(rule, decide=_recipe(rule.field), uses=("size",))
    return rule


RULES: tuple[Rule, ...] = tuple(within_method(_classic(rule)) for rule in evidence.RULES)
"""The textbook's rule for each field, or the evidence rule if it has none."""
