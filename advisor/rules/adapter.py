"""Evidence about the adapter: rank, scale, dropout, target modules and variants."""

import math

from advisor import sources
from advisor.advice import Advice, Confidence
from advisor.rules.compared import COMPARED
from advisor.rules.rate import SMALL_MODEL
from advisor.rules.tasks import encoder_targets
from advisor.situation import Situation
from specs import METHODS, TASK_TYPES, FinetunePlan, ModelSpec, gib
from specs.adapters import INITS

TASK_RANKS = {
    "classification": (8, 4, 16),
    "style": (8, 8, 16),
    "instruction": (16, 8, 64),
    "domain": (64, 32, 256),
    "reasoning": (32, 16, 256),
    "code": (64, 32, 256),
    "preference": (16, 8, 32),
    "similarity": (16, 8, 64),
}
"""Rank by task, with the lowest and highest that measurements and recipes use; sources at ``r``."""

SMALL_DATA_ROWS = 1_000
LARGEST_RANK = 256
SCALE = 8
"""The update's scale is this divided by sqrt(r): 2 at rank 16, as with alpha = 2r."""
MUCH_DATA_ROWS, RANK_FOR_MUCH_DATA = 50_000, 64
"""Rows from which a small model gains from a larger rank; the sweep that showed it had 100,000."""


def r(situation: Situation, plan: FinetunePlan) -> Advice:
    """Take the task's rank; 8 under 1,000 rows; more if the data outgrows it. Other adapters have their own."""
    own = COMPARED.get(plan.method)
    if own is not None and own.r is not None:
        return Advice(
            field="r",
            value=own.r,
            range=(max(1, own.r // 4), 2 * own.r),
            reason=f"For {situation.phrase('task')} too, since no other rank was measured: {own.why}.",
            source=own.source,
            confidence=Confidence.LOW,
        )
    return _lora_rank(situation)


def _lora_rank(situation: Situation) -> Advice:
    rank, least, most = TASK_RANKS[situation.task]
    task = situation.phrase("task")
    reason = f"For {task}, r = {rank} is what comparable recipes use."
    source, confidence = sources.QLORA.at("section 4, all ranks from 8 to 256 alike"), Confidence.MEDIUM
    if situation.task in {"code", "reasoning", "domain"}:
        source = sources.LEARNS_LESS.at("sections 4.3 to 4.7")
    if situation.task == "similarity":
        source = sources.E5_MISTRAL.at("section 4.1: rank 16; sentence-transformers' example with PEFT: 64")
    rows = situation.dataset_rows
    if rows is not None and rows < SMALL_DATA_ROWS and rank > 8:
        rank, least = 8, 4
        reason = f"{situation.phrase('rows').capitalize()} of {task} fit in a small adapter: r = 8."
    small = situation.num_params <= SMALL_MODEL
    small = small and situation.task_type == "CAUSAL_LM"
    if small and (rows or 0) >= MUCH_DATA_ROWS and rank < RANK_FOR_MUCH_DATA:
        rank, most = RANK_FOR_MUCH_DATA, max(most, 2 * RANK_FOR_MUCH_DATA)
        reason = (
            f"{situation.phrase('size')} and {situation.phrase('rows')} of {task}: a small model gains from r = {rank} "
            "on much data. Llama-3.2-1B's loss fell from 0.795 at r = 16 to 0.780 at 64 and 0.776 at 128."
        )
        source = sources.TINKER.at("recipes/chat_sl/results/sft_sweep.md, 100,000 examples")
    raised = rank if situation.task_type != "CAUSAL_LM" else _rank_for_capacity(situation, rank)
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
    """Leave it to the method: ``lora_alpha`` grows with sqrt(r) anyway."""
    fixed = plan.method == "rslora"
    return Advice(
        field="use_rslora",
        value=fixed,
        range=(True,) if fixed else (False, True),
        reason=f"At r = {plan.r} it only writes the scale {SCALE} / sqrt(r) differently: alpha / sqrt(r) with "
        f"alpha = {SCALE}, or alpha / r with alpha = {_alpha(plan.r)}.",
        source=sources.RSLORA.at("equation 5, the scale alpha / sqrt(r)"),
    )


def lora_alpha(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Let the scale fall with sqrt(r) from 2 at rank 16, so that one learning rate suits every rank."""
    own = COMPARED.get(plan.method)
    if own is not None:
        return Advice(
            field="lora_alpha",
            value=2 * plan.r,
            range=(plan.r, 4 * plan.r),
            reason=f"alpha = 2r, here 2 x {plan.r}, is what {METHODS[plan.method].label} was measured with.",
            source=own.source,
            confidence=Confidence.LOW,
        )
    value = SCALE if plan.use_rslora else _alpha(plan.r)
    how = f"alpha = {SCALE} under rsLoRA" if plan.use_rslora else f"alpha = {SCALE} x sqrt(r)"
    return Advice(
        field="lora_alpha",
        value=value,
        range=(max(1, value // 2), 2 * value),
        reason=f"{how} at r = {plan.r} makes the scale {SCALE / math.sqrt(plan.r):.2g}"
        + ("" if plan.r == 16 else ", as 2 at r = 16")
        + "; the best alpha grows with sqrt(r), and with alpha = 2r a higher rank would need a lower learning rate.",
        source=sources.LORA_ALPHA.at("abstract, square-root law; rsLoRA, equation 5; arXiv 2602.06204, two regimes"),
        confidence=Confidence.MEDIUM if plan.r <= 64 else Confidence.LOW,
    )


def _alpha(r: int) -> int:
    """Return the ``lora_alpha`` whose scale, alpha / r, is ``SCALE`` / sqrt(r)."""
    return max(1, round(SCALE * math.sqrt(r)))


def lora_dropout(situation: Situation, plan: FinetunePlan) -> Advice:
    """Use none: its effect is small, and it costs fused kernels, memory and time."""
    most, source = 0.1, sources.QLORA.at("appendix B.2: useful at 7B and 13B, not at 33B and 65B; Unsloth's guide: 0")
    why = "dropout's effect is small; it stores masks and keeps fused kernels from running"
    if plan.target_parameters or situation.pins.get("target_parameters"):
        most, source = 0.0, sources.PEFT_LORA.at("target_parameters; tuners/lora/layer.py, ParamWrapper")
        why += "; on stacked experts PEFT does not allow it"
    elif situation.dataset_rows is not None and situation.dataset_rows < SMALL_DATA_ROWS:
        why += "; try 0.1 if the held-out loss rises"
    size, rows = situation.phrase("size"), situation.phrase("rows")
    return Advice(
        field="lora_dropout",
        value=0.0,
        range=(0.0, most),
        reason=f"With {size} and {rows}, goal {situation.phrase('goal')}: {why}.",
        source=source,
    )


def target_modules(situation: Situation, plan: FinetunePlan) -> Advice:
    """Adapt every linear layer of the blocks; of a mixture all but routers and experts."""
    few = encoder_targets(situation.modules) if situation.model.is_encoder else None
    if few is not None:
        embeds = TASK_TYPES[situation.task_type].embeds
        why = "with r = 8 there, LoRA's authors reached on GLUE what training all of RoBERTa reaches."
        return Advice(
            field="target_modules",
            value=few,
            range=(few, "all-linear", situation.modules),
            reason=f"Of {situation.phrase('modules')} in {situation.model.model_type}, {' and '.join(few)} are enough: "
            + ("sentence-transformers' example with PEFT adapts these, PEFT's default for BERT." if embeds else why),
            source=sources.SBERT_PEFT if embeds else sources.LORA.at("table 2 and appendix D"),
            confidence=Confidence.MEDIUM,
        )
    model = situation.model
    count, at = situation.adapter_params(plan), f"at r = {plan.r} " if METHODS[plan.method].has_rank else ""
    trained = "" if count is None else f"; {at}that trains {count:,} weights"
    names = ", ".join(model.linear_modules or situation.modules)
    reason = f"Every linear layer of {model.model_type}{_but_bypassed(model)} is adapted ({names}{trained})"
    why = "feed-forward layers help most, and attention alone does worse at equal size."
    if model.is_moe:
        reason = f"{names} of {model.model_type} are adapted{trained}"
        why = f"{_frozen(situation)}. {_moved(model)}".rstrip()
    return Advice(
        field="target_modules",
        value="all-linear",
        range=("all-linear", situation.modules),
        reason=f"{reason}; {why}",
        source=sources.PEFT_MIXTURES
        if model.is_moe
        else sources.LEARNS_LESS.at("figure 7; QLoRA section 4 and PEFT's comparison agree"),
        confidence=Confidence.MEDIUM if model.is_moe else Confidence.HIGH,
    )


def _but_bypassed(model: ModelSpec) -> str:
    """Return which layers get no adapter since the model's own code reads their weights, as words to insert."""
    found = () if model.layers is None else model.layers.linear
    names = ", ".join(dict.fromkeys(layer.name for layer in found if layer.left_out == "bypassed"))
    return f" but {names}, which a fused kernel reads past an adapter," if names else ""


def _frozen(situation: Situation) -> str:
    """Return what of a mixture gets no adapter, or that experts get one because the person named them."""
    experts = f"the {situation.model.num_experts:,} experts of each layer"
    asked = situation.pins.get("target_parameters", ())
    if not asked:
        return f"routers and {experts} stay frozen"
    return f"so are {' and '.join(asked)} of {experts}, as target_parameters asks; routers stay frozen"


def _moved(model: ModelSpec) -> str:
    """Return which dense layers of a mixture stay frozen because PEFT would adapt the experts instead."""
    if model.layers is None:
        return ""
    kept = (layer.name for layer in model.layers.linear if not layer.left_out and layer.name in model.layers.moved)
    names = ", ".join(dict.fromkeys(kept))
    return f"So do {names} outside the experts: PEFT 0.21 would adapt every expert instead." if names else ""


def target_parameters(situation: Situation, plan: FinetunePlan) -> Advice:
    """Leave the experts of a mixture frozen."""
    model = situation.model
    reason = f"{model.model_type} has no stacked experts."
    if model.expert_parameters:
        names, cost = " and ".join(model.expert_parameters), _if_trained(situation, plan)
        reason = f"The experts of {model.model_type} ({names}) stay frozen{cost}."
    return Advice(
        field="target_parameters",
        value=(),
        range=((), model.expert_parameters) if model.expert_parameters else ((),),
        reason=reason,
        source=sources.PEFT_LORA.at("target_parameters"),
    )


def _if_trained(situation: Situation, plan: FinetunePlan) -> str:
    """Return what adapters on the experts would train, and what they would hold in memory at the least."""
    layers = situation.model.layers
    if layers is None:
        return ""
    with_experts = FinetunePlan.for_method("lora", "counted", r=plan.r, target_parameters=layers.parameters)
    count = layers.lora_params(with_experts)
    held = gib(count * (ADAPTER_BYTES[plan.adapter_dtype] + 12))
    return f": at r = {plan.r} they would make it {count:,} trained weights, {held} with gradients and AdamW's states"


ADAPTER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of each number of an adapter, by ``adapter_dtype``."""


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
        reason=f"{plan.method}, goal {situation.phrase('goal')}: in PEFT's comparison DoRA (46.9%) and LoRA (47.8%) "
        "do not differ, since the standard error is 1.4 points; DoRA took 26% longer (1191 s against 942 s).",
        source=sources.PEFT_BENCHMARK.at("lora/llama-3.2-3B-rank32 and rank32-dora"),
    )


def init_lora_weights(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Use PEFT's default initialization."""
    return Advice(
        field="init_lora_weights",
        value="default",
        range=("default", "gaussian", "eva", "pissa", "olora")
        if plan.quantization == "none"
        else ("default", "gaussian", "eva"),
        reason=f"B starts at zero, so the {plan.method} model starts out identical to the base model; "
        f"variants differ by 1 to 2% once the learning rate is tuned{_init_cost(plan)}.",
        source=sources.VANILLA.at("abstract"),
    )


def _init_cost(plan: FinetunePlan) -> str:
    """Return what the plan's own way to begin takes before the first step, as words to add."""
    cost = INITS[plan.init_lora_weights].cost
    return f", and {plan.init_lora_weights} takes {cost} before the first step" if cost else ""


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
