"""Evidence about the optimizer and the run: learning rate, schedule, epochs, evaluation, logging."""

import math

from advisor import sources
from advisor.advice import Advice, Confidence, Source
from advisor.rules import embeddings, tasks
from advisor.rules.compared import COMPARED
from advisor.rules.rate import TINY_MODEL, lora_rate
from advisor.situation import Situation
from specs import TASK_TYPES, FinetunePlan
from specs.dataset import num_learned, share_to_hold_out
from specs.sharing import UNSHARDED

LARGE_MODEL = 16_000_000_000
"""Full fine-tuning of models above the 14B class takes half the rate."""
FEW_STEPS = 100
LEAST_HELD_OUT = 10
"""Held-out rows below which a loss says little."""


def total_steps(situation: Situation, plan: FinetunePlan) -> int | None:
    """Return the optimizer steps of a run, or None if the data is unknown."""
    if plan.max_steps > 0:
        return plan.max_steps
    if situation.dataset_rows is None:
        return None
    rows = num_learned(situation.dataset_rows, plan.eval_split, asks_data=situation.asks_data)
    return max(1, math.ceil(math.ceil(rows / plan.effective_batch_size) * plan.num_train_epochs))


def optim(situation: Situation, plan: FinetunePlan) -> Advice:
    """Use PyTorch's fused AdamW; the search switches to a paged 8-bit one if memory is short."""
    sharded = plan.sharding not in UNSHARDED
    value = "adamw_torch_fused"
    acceptable: tuple[str, ...] = (value, "adamw_torch")
    small = plan.method != "full"
    why = "an adapter's states are small beside the model" if small else "an 8-bit one is taken where memory is short"
    why, source = f"exact and fast; {why}", sources.TRANSFORMERS.at("optim")
    if sharded:
        why, source = f"those of bitsandbytes cannot update weights that {plan.sharding} shards", sources.BNB_FSDP
    elif not situation.gpu.is_cpu:
        acceptable = (*acceptable, "paged_adamw_8bit", "paged_adamw_32bit", "adamw_8bit")
    if situation.goal == "memory" and len(acceptable) > 2:
        value, why = "paged_adamw_8bit", "8-bit, and paged out at a peak"
    elif small and not sharded:
        source = sources.RASCHKA.at("AdamW 14.18 GB, SGD 14.15 GB at small rank")
    return Advice(
        field="optim",
        value=value,
        range=acceptable,
        reason=f"For method {plan.method} with goal {situation.phrase('goal')} on {situation.gpu.name}: {why}.",
        source=source,
    )


def learning_rate(situation: Situation, plan: FinetunePlan) -> Advice:
    """Use the measured optimum of the family, size and batch; less for text, preferences and full fine-tuning."""
    value, (least, most), why, source, confidence = _base_rate(situation, plan)
    steps = total_steps(situation, plan)
    usual = situation.task not in {"preference", "domain"} and situation.num_params >= TINY_MODEL
    usual = usual and plan.method not in COMPARED and not situation.model.is_encoder
    usual = usual and not situation.model.is_encoder_decoder and not TASK_TYPES[situation.task_type].embeds
    if usual and steps is not None and steps < FEW_STEPS:
        value, most = 1.5 * value, max(most, 1.5 * value)
        why += f"; {steps} steps in all are few, so the rate is 1.5 times as high"
    return Advice(
        field="learning_rate",
        value=float(f"{value:.2g}"),
        range=(least, most),
        reason=f"For {situation.phrase('task')} with {situation.phrase('size')}: {why}.",
        source=source,
        confidence=confidence,
    )


def _base_rate(situation: Situation, plan: FinetunePlan) -> tuple[float, tuple[float, float], str, Source, Confidence]:
    """Return the learning rate of a normal run, its range, why, the source and the confidence."""
    if own := COMPARED.get(plan.method):
        return own.value, own.range, own.why, own.source, own.confidence
    if TASK_TYPES[situation.task_type].embeds:
        value, ends, why, where = embeddings.RATES["full" if plan.method == "full" else "lora"]
        return value, ends, why, where, Confidence.MEDIUM
    if situation.model.is_encoder or situation.model.is_encoder_decoder:
        table = tasks.ENCODER_RATES if situation.model.is_encoder else tasks.ENCODER_DECODER_RATES
        value, ends, why, where = table["full" if plan.method == "full" else "lora"]
        return value, ends, why, where, Confidence.MEDIUM
    if plan.method == "full":
        rate = 1e-5 if situation.num_params >= LARGE_MODEL or situation.task == "domain" else 2e-5
        where = sources.TRL_REGRET.at("full fine-tuning needs a tenth of LoRA's rate")
        return rate, (5e-6, 5e-5), "full fine-tuning needs a tenth of LoRA's rate", where, Confidence.MEDIUM
    if situation.task == "preference":
        return 5e-6, (1e-6, 2e-5), "DPO recipes use 5e-6", sources.ZEPHYR.at("zephyr-7b DPO QLoRA"), Confidence.MEDIUM
    if situation.task == "domain":
        where = sources.UNSLOTH_NOTEBOOKS.at("continued pre-training")
        return 5e-5, (2e-5, 2e-4), "continued pre-training recipes use 5e-5", where, Confidence.MEDIUM
    return lora_rate(situation, plan.effective_batch_size)


def lr_scheduler_type(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Let the rate fall along a cosine."""
    return Advice(
        field="lr_scheduler_type",
        value="cosine",
        range=("cosine", "linear", "constant", "constant_with_warmup"),
        reason=f"For {situation.phrase('task')} most recipes use cosine; constant does as well, "
        "and the effect is small.",
        source=sources.TORCHTUNE.at("recipes/configs; Axolotl, LitGPT, LLaMA-Factory and Zephyr agree"),
    )


def warmup_steps(situation: Situation, plan: FinetunePlan) -> Advice:
    """Warm up for 3% of the run, at least 5 and at most 100 steps."""
    steps = total_steps(situation, plan)
    if steps is None:
        value, reason = 0.03, f"{situation.phrase('rows').capitalize()}: 3% of all steps"
    else:
        wanted = min(100, max(5, round(0.03 * steps)))
        value = float(max(1, min(wanted, steps // 4)))
        make = "make" if plan.max_steps < 0 else "are ended by max_steps after"
        reason = f"{situation.phrase('rows').capitalize()} {make} {steps:,} steps; the first {value:g} are warm-up"
    return Advice(
        field="warmup_steps",
        value=value,
        range=(0.0, 0.1) if value < 1 else (0.0, max(value, 100.0)),
        reason=f"{reason}; the effect is small.",
        source=sources.UNSLOTH.at("warm-up 5 steps; torchtune 100 steps, QLoRA 0.03"),
    )


def weight_decay(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Use none with an adapter, whose low rank regularizes already."""
    full = plan.method == "full"
    return Advice(
        field="weight_decay",
        value=0.01 if full else 0.0,
        range=(0.0, 0.1 if full else 0.01),
        reason=f"Method {plan.method}: "
        + ("AdamW's usual 0.01." if full else "an adapter's low rank regularizes more than weight decay does."),
        source=sources.TORCHTUNE.at("recipes, AdamW 0.01") if full else sources.LEARNS_LESS.at("section 4.5"),
    )


def max_grad_norm(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Clip at 1.0."""
    return Advice(
        field="max_grad_norm",
        value=1.0,
        range=(0.3, 1.0),
        reason=f"With method {plan.method}, 1.0 catches spikes; QLoRA used 0.3.",
        source=sources.TRANSFORMERS.at("max_grad_norm; qlora.py 0.3"),
    )


def num_train_epochs(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Use more epochs for fewer rows."""
    rows = situation.dataset_rows
    if TASK_TYPES[situation.task_type].has_head:
        return tasks.num_train_epochs(situation)
    if TASK_TYPES[situation.task_type].embeds:
        return embeddings.num_train_epochs(situation)
    if situation.gpu.is_cpu:
        value, ends, why = 1.0, (1.0, 3.0), f"on {situation.gpu.name} one pass takes long enough"
    elif situation.task == "domain":
        value, ends, why = 1.0, (1.0, 2.0), "text is read once"
    elif rows is None:
        value, ends, why = 2.0, (1.0, 3.0), "two passes until the data is known"
    elif rows < 5_000:
        value, ends, why = 3.0, (1.0, 5.0), "few rows can take three passes"
    elif rows <= 20_000:
        value, ends, why = 2.0, (1.0, 3.0), "two passes"
    else:
        value, ends, why = 1.0, (1.0, 2.0), "a second pass over 50,000 rows made results worse"
    return Advice(
        field="num_train_epochs",
        value=value,
        range=ends,
        reason=f"{situation.phrase('rows').capitalize()} of {situation.phrase('task')}: {why}.",
        source=sources.RASCHKA.at("multiple passes over Alpaca; Unsloth's guide: 1 to 3"),
    )


def max_steps(situation: Situation, plan: FinetunePlan) -> Advice:
    """Let the epochs decide."""
    return Advice(
        field="max_steps",
        value=-1,
        range=(-1,),
        reason=f"num_train_epochs {plan.num_train_epochs:g} over {situation.phrase('rows')} decides.",
        source=sources.TRANSFORMERS.at("max_steps"),
        confidence=Confidence.HIGH,
    )


def logging_steps(situation: Situation, plan: FinetunePlan) -> Advice:
    """Log every step, or every tenth in long runs."""
    steps = total_steps(situation, plan)
    value = 10 if steps is not None and steps > 2_000 else 1
    every = "step" if value == 1 else f"{value} steps"
    return Advice(
        field="logging_steps",
        value=value,
        range=(1, 10),
        reason=f"{situation.phrase('rows').capitalize()}: the loss is plotted every {every}.",
        source=sources.TRANSFORMERS.at("logging_steps"),
        confidence=Confidence.HIGH,
    )


def save_steps(situation: Situation, plan: FinetunePlan) -> Advice:
    """Save about ten checkpoints per run."""
    steps = total_steps(situation, plan)
    value = 100 if steps is None else max(10, min(500, steps // 10))
    return Advice(
        field="save_steps",
        value=value,
        range=(10, 500),
        reason=f"{situation.phrase('rows').capitalize()}: with a checkpoint every {value} steps, a crash costs little.",
        source=sources.TRANSFORMERS.at("save_steps, default 500"),
        confidence=Confidence.LOW,
    )


def eval_split(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Hold out a tenth of few rows, a twentieth of more, and at most 1,000."""
    if TASK_TYPES[situation.task_type].has_head:
        return tasks.eval_split(situation)
    if TASK_TYPES[situation.task_type].embeds:
        return embeddings.eval_split(situation)
    rows, value, why = situation.dataset_rows, 0.0, "how many to hold out follows from the data"
    if rows is not None:
        share = share_to_hold_out(rows)
        held_out = f"{round(share * rows):,} rows"
        if situation.gpu.is_cpu:
            why = f"none are held out, since evaluating takes time on a CPU; {held_out} would show overfitting"
        elif share * rows < LEAST_HELD_OUT:
            why = f"none are held out, since so few would say little; {share:g} would hold out {held_out}"
        else:
            value, why = float(f"{share:.2g}"), f"the loss on {held_out} shows overfitting"
    return Advice(
        field="eval_split",
        value=value,
        range=(0.0, 0.1),
        reason=f"{situation.phrase('rows').capitalize()} on {situation.gpu.name}: {why}.",
        source=sources.LLAMA_FACTORY.at("examples, val_size 0.1; Unsloth's guide on overfitting"),
        confidence=Confidence.LOW,
    )


def seed(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Fix the seed so that a run can be repeated."""
    return Advice(
        field="seed",
        value=42,
        range=(0, 2**32 - 1),
        reason=f"Any fixed number makes the {plan.method} run repeatable.",
        source=sources.TRANSFORMERS.at("seed, default 42"),
        confidence=Confidence.HIGH,
    )
