"""The textbook table as it stands, with its starter recipe and its rules for data and task."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from advisor import sources
from advisor.advice import Advice, Caution, Confidence, Estimate, Rule
from advisor.rules import evidence
from advisor.rules.method import within_method
from advisor.situation import Situation
from specs import GIB, METHODS, FinetunePlan, gib


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the textbook table; a pair is the range that it prints."""

    size: str
    billions: float
    """Where the size class lies, to find the nearest for a model in between."""
    memory_gib: tuple[float, float]
    method: str
    r: tuple[int, int]
    lora_alpha: tuple[int, int]
    targets: str
    """Roles of the targeted modules: q, k, v, o and m for the feed-forward layers."""
    lora_dropout: tuple[float, float]
    double_quant: bool = False
    bf16_only: bool = True
    learning_rate: tuple[float, float]


TABLE = (
    Row(
        size="1B-3B",
        billions=1.7,
        memory_gib=(12, math.inf),
        method="lora",
        r=(8, 16),
        lora_alpha=(16, 32),
        targets="qv",
        lora_dropout=(0.05, 0.05),
        bf16_only=False,
        learning_rate=(2e-4, 2e-3),
    ),
    Row(
        size="7B",
        billions=7,
        memory_gib=(24, math.inf),
        method="lora",
        r=(8, 16),
        lora_alpha=(16, 32),
        targets="qv",
        lora_dropout=(0.05, 0.05),
        bf16_only=False,
        learning_rate=(2e-4, 1e-3),
    ),
    Row(
        size="7B",
        billions=7,
        memory_gib=(12, 16),
        method="qlora",
        r=(4, 8),
        lora_alpha=(16, 16),
        targets="qv",
        lora_dropout=(0.05, 0.05),
        learning_rate=(1e-4, 5e-4),
    ),
    Row(
        size="13B",
        billions=13,
        memory_gib=(32, math.inf),
        method="lora",
        r=(16, 32),
        lora_alpha=(32, 64),
        targets="qkvo",
        lora_dropout=(0.05, 0.1),
        learning_rate=(2e-4, 8e-4),
    ),
    Row(
        size="13B",
        billions=13,
        memory_gib=(16, 24),
        method="qlora",
        r=(8, 16),
        lora_alpha=(16, 32),
        targets="qv",
        lora_dropout=(0.05, 0.05),
        learning_rate=(1e-4, 3e-4),
    ),
    Row(
        size="33B",
        billions=33,
        memory_gib=(64, math.inf),
        method="lora",
        r=(16, 32),
        lora_alpha=(32, 64),
        targets="qkvo",
        lora_dropout=(0.05, 0.1),
        learning_rate=(1e-4, 5e-4),
    ),
    Row(
        size="33B",
        billions=33,
        memory_gib=(24, 32),
        method="qlora",
        r=(8, 16),
        lora_alpha=(16, 32),
        targets="qv",
        lora_dropout=(0.05, 0.05),
        double_quant=True,
        learning_rate=(1e-4, 3e-4),
    ),
    Row(
        size="65B",
        billions=65,
        memory_gib=(128, math.inf),
        method="lora",
        r=(32, 64),
        lora_alpha=(64, 128),
        targets="qkvom",
        lora_dropout=(0.05, 0.1),
        learning_rate=(1e-4, 2e-4),
    ),
    Row(
        size="65B",
        billions=65,
        memory_gib=(40, 48),
        method="qlora",
        r=(8, 16),
        lora_alpha=(32, 64),
        targets="qv",
        lora_dropout=(0.05, 0.05),
        double_quant=True,
        learning_rate=(5e-5, 2e-4),
    ),
)
"""The nine rows as printed, sizes of the LLaMA class and memory in GB."""

TASK_RANKS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "classification": (4, 8),
        "style": (8, 16),
        "instruction": (16, 32),
        "domain": (16, 32),
        "reasoning": (32, 64),
        "code": (32, 64),
        "preference": (8, 16),
    }
)
"""The textbook's ranks by task complexity; a row of the table bounds them."""

DECISION_MATRIX = (
    ("8x A100", "full fine-tuning or LoRA"),
    ("1x A100", "LoRA"),
    ("RTX 4090", "QLoRA"),
    ("1,000 examples", "LoRA or QLoRA"),
    ("100,000 examples", "any"),
    ("best accuracy", "full fine-tuning or LoRA with r = 32"),
    ("efficiency", "QLoRA"),
    ("several tasks", "LoRA, one adapter each"),
)
"""The textbook's decision matrix: what you have or want, and what it answers."""

STARTER_RECIPE: Mapping[str, Any] = MappingProxyType(
    {
        "r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "learning_rate": 2e-4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": 3.0,
        "max_length": 512,
        "weight_decay": 0.01,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "bias": "none",
        "bnb_4bit_quant_type": "nf4",
    }
)
"""What the textbook starts from where the table says nothing."""

SMALL_DATA_ROWS = 1_000
LARGE_DATA_ROWS = 100_000

_ROLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "q": frozenset({"q_proj", "q_a_proj", "q_b_proj", "query", "query_key_value", "qkv_proj", "c_attn", "Wqkv"}),
        "k": frozenset({"k_proj", "kv_a_proj_with_mqa", "key", "query_key_value", "qkv_proj", "c_attn", "Wqkv"}),
        "v": frozenset({"v_proj", "kv_b_proj", "value", "query_key_value", "qkv_proj", "c_attn", "Wqkv"}),
        "o": frozenset({"o_proj", "out_proj", "dense", "c_proj"}),
    }
)


def row(situation: Situation) -> Row:
    """Return the table's row for a model and card: the nearest size, then LoRA if its memory is there."""
    size = situation.num_params / 1e9
    nearest = min(TABLE, key=lambda entry: abs(math.log(entry.billions / size))).size
    rows = [entry for entry in TABLE if entry.size == nearest]
    memory = situation.gpu.memory_bytes * situation.num_gpus / GIB
    lora, *others = rows
    return lora if memory >= lora.memory_gib[0] or not others else others[0]


def method(situation: Situation) -> str:
    """Return the method of the table's row, unless the person fixed one."""
    pinned: str | None = situation.pins.get("method")
    return pinned or row(situation).method


def method_advice(situation: Situation) -> Advice:
    """Return which row of the table names the method."""
    entry = row(situation)
    least, most = entry.memory_gib
    span = f"{least:g} GB and more" if math.isinf(most) else f"{least:g} to {most:g} GB"
    fixed = "You fixed it; the table says: " if "method" in situation.pins else ""
    return Advice(
        field="method",
        value=method(situation),
        range=(entry.method,),
        reason=f"{fixed}{situation.phrase('model')} on {situation.gpu.name} is nearest to the row {entry.size} with "
        f"{span}: {METHODS[entry.method].label}.",
        source=sources.TEXTBOOK.at(f"row {entry.size}, {METHODS[entry.method].label}"),
        confidence=Confidence.LOW,
    )


def disagreements(situation: Situation, plan: FinetunePlan, estimate: Estimate) -> tuple[Caution, ...]:
    """Return where the estimator or the evidence contradicts the textbook's plan, with the numbers."""
    entry = row(situation)
    found = []
    if estimate.used_bytes > situation.available_bytes:
        found.append(
            Caution(
                "method",
                f"The row {entry.size} with {METHODS[plan.method].label} does not fit: it uses "
                f"{gib(estimate.used_bytes)} of {situation.phrase('memory')} on {situation.gpu.name}.",
                sources.ESTIMATE,
            )
        )
    if situation.gpu.memory_bytes * situation.num_gpus / GIB < entry.memory_gib[0]:
        found.append(
            Caution(
                "method",
                f"The table has no row for {entry.size} under {entry.memory_gib[0]:g} GB; this is the nearest.",
                sources.TEXTBOOK,
            )
        )
    for rule in evidence.RULES:
        if rule.field in situation.pins or not rule.applies(plan):
            continue
        advice, value = rule.decide(situation, plan), getattr(plan, rule.field)
        if not advice.accepts(value):
            found.append(
                Caution(
                    rule.field,
                    f"The textbook says {value}, the evidence {advice.value}: {advice.reason}",
                    advice.source,
                )
            )
    return tuple(found)


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
    """Take the task's rank within the row, the low end for small data and the high end for large."""
    least, most = row(situation).r
    value = min(most, max(least, TASK_RANKS[situation.task][0]))
    value = {"small": least, "large": most, "ordinary": value}[_data(situation)]
    why = f"r {least}-{most}, {situation.phrase('task')} and {_data(situation)} data take {value}"
    return _advice(situation, "r", value, (least, most), why)


def lora_alpha(situation: Situation, plan: FinetunePlan) -> Advice:
    """Move alpha through its range as r moves through its own."""
    (least, most), (low, high) = row(situation).r, row(situation).lora_alpha
    share = min(1.0, max(0.0, (plan.r - least) / (most - least)))
    value = round(low + share * (high - low))
    return _advice(situation, "lora_alpha", value, (low, high), f"lora_alpha {low}-{high} goes with r = {plan.r}")


def lora_dropout(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Take the row's low end, more for small data, none for large."""
    low, high = row(situation).lora_dropout
    value = {"small": 0.1, "large": 0.0, "ordinary": low}[_data(situation)]
    span = (min(low, value), max(high, value))
    return _advice(situation, "lora_dropout", value, span, f"dropout for {_data(situation)} data")


def learning_rate(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Start at 2e-4 within the row's range; its low end for small data, its high end for large."""
    low, high = row(situation).learning_rate
    ordinary = min(high, max(low, STARTER_RECIPE["learning_rate"]))
    value = {"small": low, "large": high, "ordinary": ordinary}[_data(situation)]
    why = f"learning rate {low:g} to {high:g}, {_data(situation)} data take {value:g}"
    return _advice(situation, "learning_rate", value, (low, high), why)


def target_modules(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Take the row's roles under the model's real names; q and v for small data, all attention for large."""
    roles = row(situation).targets
    if _data(situation) == "small":
        roles = "qv"
    elif _data(situation) == "large" and "m" not in roles:
        roles = "qkvo"
    value = named(roles, situation.modules)
    why = f"{' and '.join(roles)} are {', '.join(value)} in {situation.model.model_type}"
    return _advice(situation, "target_modules", value, (value,), why.replace("m ", "feed-forward "))


def named(roles: str, modules: tuple[str, ...]) -> tuple[str, ...]:
    """Return the modules that play some roles: q, k, v, o, and m for all the rest."""
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
    """Page the optimizer under QLoRA."""
    value = "paged_adamw_32bit" if plan.quantization == "4bit" else "adamw_torch"
    return _advice(situation, "optim", value, (value,), f"{value} under {plan.method}")


def gradient_checkpointing(situation: Situation, plan: FinetunePlan) -> Advice:
    """Recompute activations of large models."""
    value = row(situation).billions >= 13
    why = f"checkpointing {'with' if value else 'is for'} large models, {plan.method}"
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
    """Return the textbook's rule for a field, or the evidence rule where the textbook is silent."""
    if rule.field in _OWN:
        decide, uses = _OWN[rule.field]
        return dataclasses.replace(rule, decide=decide, uses=uses)
    if rule.field in STARTER_RECIPE:
        return dataclasses.replace(rule, decide=_recipe(rule.field), uses=("size",))
    return rule


RULES: tuple[Rule, ...] = tuple(within_method(_classic(rule)) for rule in evidence.RULES)
"""The textbook's rule for each field; where it says nothing, the evidence rule."""
