"""Evidence about the adapter: rank, scale, dropout, target modules and variants."""

import math

from advisor import sources
from advisor.advice import Advice, Confidence
from advisor.situation import Situation
from specs import FinetunePlan

TASK_RANKS = {
    "classification": (8, 4, 16),
    "style": (8, 8, 16),
    "instruction": (16, 8, 64),
    "domain": (64, 32, 256),
    "reasoning": (32, 16, 256),
    "code": (64, 32, 256),
    "preference": (16, 8, 32),
}
"""Rank by task, with the lowest and highest that measurements and recipes use; sources at ``r``."""

SMALL_DATA_ROWS = 1_000
LARGEST_RANK = 256
RSLORA_ABOVE = 64
DROPOUT_UP_TO = 14_000_000_000
"""The 13B class; QLoRA found dropout useful up to there and useless from 33B up."""

ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})
"""Linear modules that choose experts; an adapter there would change the routing."""


def r(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Take the task's rank; 8 under 1,000 rows; more if the data outgrows the adapter."""
    rank, least, most = TASK_RANKS[situation.task]
    task = situation.phrase("task")
    reason = f"For {task}, r = {rank} is what comparable recipes use; model size does not change it."
    source, confidence = sources.QLORA.at("section 4, all ranks from 8 to 256 alike"), Confidence.MEDIUM
    if situation.task in {"code", "reasoning", "domain"}:
        source = sources.LEARNS_LESS.at("sections 4.3 to 4.7")
    rows = situation.dataset_rows
    if rows is not None and rows < SMALL_DATA_ROWS and rank > 8:
        rank, least = 8, 4
        reason = f"{situation.phrase('rows').capitalize()} of {task} fit in a small adapter: r = 8."
    raised = _rank_for_capacity(situation, rank)
    if raised > rank:
        rank, most = raised, max(most, raised)
        reason = (
            f"For {task}, {situation.phrase('rows')} have about {situation.train_tokens:,} tokens: the adapter gets "
            f"at least one parameter per token, up to r = {LARGEST_RANK}."
        )
        source, confidence = sources.TINKER.at("docs, LoRA capacity"), Confidence.LOW
    if situation.goal == "quality" and rank < most:
        reason += f" For {situation.phrase('goal')} it is doubled."
        rank = min(2 * rank, most)
    return Advice(field="r", value=rank, range=(least, most), reason=reason, source=source, confidence=confidence)


def use_rslora(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Scale by sqrt(r) above rank 64."""
    fixed = plan.method == "rslora"
    value = fixed or plan.r > RSLORA_ABOVE
    reason = (
        f"At r = {plan.r}, alpha / sqrt(r) keeps the update from fading as it would with alpha / r."
        if value
        else f"At r = {plan.r}, the usual scale alpha / r is stable."
    )
    return Advice(
        field="use_rslora",
        value=value,
        range=(True,) if fixed else (False, True) if plan.r >= RSLORA_ABOVE else (False,),
        reason=reason,
        source=sources.RSLORA.at("abstract; PEFT's comparison: 51.3 % against 47.4 % at r 64, with more forgetting"),
    )


def lora_alpha(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Scale the update by 2."""
    if plan.use_rslora:
        value = max(1, round(2 * math.sqrt(plan.r)))
        return Advice(
            field="lora_alpha",
            value=value,
            range=(max(1, round(math.sqrt(plan.r))), value),
            reason=f"2 x sqrt(r) at r = {plan.r}: under rsLoRA this keeps the scale of the update at 2.",
            source=sources.RSLORA.at("equation 5, the scale alpha / sqrt(r)"),
        )
    return Advice(
        field="lora_alpha",
        value=2 * plan.r,
        range=(plan.r, 2 * plan.r),
        reason=f"Twice r = {plan.r}; alpha acts like the learning rate, so tune that and leave alpha alone.",
        source=sources.LEARNS_LESS.at("section 4.7: alpha = 2r best at high rank"),
    )


def lora_dropout(situation: Situation, plan: FinetunePlan) -> Advice:
    """Drop 5 % up to 13B, nothing above or with fused experts, 10 % if few rows are repeated."""
    most, source = 0.1, sources.QLORA.at("appendix B.2; Guanaco scripts 0.1 at 7B, 0.05 above")
    size, rows = situation.phrase("size"), situation.phrase("rows")
    few = situation.dataset_rows is not None and situation.dataset_rows < SMALL_DATA_ROWS
    if situation.goal == "speed":
        value, reason = 0.0, "without dropout, fused kernels can run and no masks are stored"
    elif situation.model.expert_parameters:
        value, reason = 0.0, "the experts are fused parameters, for which PEFT does not allow dropout"
        most, source = 0.0, sources.PEFT_LORA.at("target_parameters; tuners/lora/layer.py, ParamWrapper")
    elif situation.num_params > DROPOUT_UP_TO:
        value, reason = 0.0, "QLoRA found dropout useless at 33B and 65B"
    elif few and plan.num_train_epochs >= 3:
        value, reason = 0.1, f"{plan.num_train_epochs:g} passes over few rows need more dropout"
    else:
        value, reason = 0.05, "QLoRA found dropout useful at 7B and 13B"
    return Advice(
        field="lora_dropout",
        value=value,
        range=(0.0, most),
        reason=f"With {size} and {rows}, goal {situation.phrase('goal')}: {reason}; the effect is small.",
        source=source,
    )


def target_modules(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Adapt every linear layer of the blocks except routers."""
    routers = [name for name in situation.modules if name in ROUTERS]
    value: str | tuple[str, ...] = "all-linear"
    names = situation.phrase("modules")
    if routers:
        value = tuple(name for name in situation.modules if name not in ROUTERS)
        names = f"{', '.join(value)}; not the router {', '.join(routers)}"
    return Advice(
        field="target_modules",
        value=value,
        range=(value, situation.modules),
        reason=f"Every linear layer of {situation.model.model_type} is adapted ({names}); "
        "feed-forward layers help most, and attention alone does worse at equal size.",
        source=sources.LEARNS_LESS.at("figure 7; QLoRA section 4 and PEFT's comparison agree"),
        confidence=Confidence.HIGH,
    )


def bias(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Train no biases."""
    return Advice(
        field="bias",
        value="none",
        range=("none",),
        reason=f"Trained biases of {situation.model.model_type} would stay in the base model when the adapter is off.",
        source=sources.PEFT_LORA.at("bias"),
        confidence=Confidence.HIGH,
    )


def use_dora(situation: Situation, plan: FinetunePlan) -> Advice:
    """Use DoRA only if the person chose it."""
    return Advice(
        field="use_dora",
        value=plan.method == "dora",
        range=(plan.method == "dora",),
        reason=f"{plan.method}, goal {situation.phrase('goal')}: in PEFT's comparison DoRA scored 46.9 % against "
        "47.8 % for LoRA and took 26 % longer (1191 s against 942 s).",
        source=sources.PEFT_BENCHMARK.at("lora/llama-3.2-3B-rank32 and rank32-dora"),
    )


def init_lora_weights(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Use PEFT's default initialization."""
    return Advice(
        field="init_lora_weights",
        value="default",
        range=("default", "pissa"),
        reason=f"B starts at zero, so the {plan.method} model starts out identical to the base model; "
        "variants differ by 1 to 2 % once the learning rate is tuned.",
        source=sources.VANILLA.at("abstract"),
    )


def loraplus_lr_ratio(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Train A and B at one rate."""
    return Advice(
        field="loraplus_lr_ratio",
        value=None,
        range=(None, 16.0),
        reason=f"One learning rate for both matrices of {plan.method} is the proven default; "
        "LoRA+ (ratio about 16) needs a lower base rate.",
        source=sources.LORA_PLUS.at("abstract and README"),
        confidence=Confidence.LOW,
    )


def _rank_for_capacity(situation: Situation, rank: int) -> int:
    """Return the rank, doubled until the adapter has one parameter per token of the data."""
    tokens = situation.train_tokens or 0
    while rank < LARGEST_RANK and situation.lora_params(rank) < tokens:
        rank *= 2
    return min(rank, LARGEST_RANK)
