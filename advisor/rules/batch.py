"""Evidence about what one step contains: batch, length, loss, attention, checkpointing, sharding."""

import math

from advisor import sources
from advisor.advice import Advice, Confidence
from advisor.rules import embeddings
from advisor.situation import Situation
from estimator.tape.kernels import ENCODERS_WITHOUT_SDPA
from specs import TASK_TYPES, FinetunePlan

EFFECTIVE_BATCH = 16
SMALL_DATA_BATCH = 8
CPU_BATCH = 2
CPU_BATCH_OF_TEXTS = 8
"""One class is all that a text teaches: a step of two would be mostly chance."""
LARGEST_MICRO_BATCH = 8
DEFAULT_LENGTH = 1024
CPU_LENGTH = 256
PART_LENGTH = 384
"""Tokens of the overlapping parts that BERT's authors read SQuAD in: run_squad.py, ``max_seq_length``."""
ROUND_LENGTH_TO = 64

WITHOUT_SDPA = frozenset(
    {"bloom", "codegen", "ctrl", "gemma2", "gpt_oss", "mpt", "openai-gpt", "xlm", "xlnet", "rwkv", "reformer"}
)
"""Model types without SDPA in transformers 5.23 (``_supports_sdpa`` is False): they run eager attention."""

CHECKPOINTING_COST = "one more forward pass per step"
"""The price of gradient checkpointing, in the same words wherever it is told."""

ACTIVATIONS_COST = "two copies over the bus per step: of each layer's input to RAM, and back"
"""The price of activation offloading, in the same words wherever it is told."""
LAYERS_COST = "two copies of all layers over the bus per step, with the same result"
"""The price of layer offloading, in the same words wherever it is told."""


def effective_batch(situation: Situation) -> int:
    """Return the number of sequences that one optimizer step should have."""
    if TASK_TYPES[situation.task_type].multiplies_by_batch:
        return embeddings.usual_batch(situation)
    if situation.gpu.is_cpu:
        return CPU_BATCH if situation.task_type == "CAUSAL_LM" else CPU_BATCH_OF_TEXTS
    if situation.dataset_rows is not None and situation.dataset_rows < 1_000:
        return SMALL_DATA_BATCH
    return EFFECTIVE_BATCH


def per_device_train_batch_size(situation: Situation, plan: FinetunePlan) -> Advice:
    """Propose the largest useful micro-batch; the search lowers it until the plan fits."""
    if TASK_TYPES[situation.task_type].multiplies_by_batch:
        return embeddings.batch_size(situation, plan)
    wanted = effective_batch(situation)
    value = 1 if situation.goal == "memory" else max(1, min(LARGEST_MICRO_BATCH, wanted // plan.num_gpus))
    return Advice(
        field="per_device_train_batch_size",
        value=value,
        range=(1, max(value, min(LARGEST_MICRO_BATCH, wanted))),
        reason=f"On {situation.gpu.name} with {situation.phrase('num_gpus')}, goal {situation.phrase('goal')}: {value} "
        f"of {wanted} sequences at once; only the product with accumulation affects the result.",
        source=_BATCH,
    )


def gradient_accumulation_steps(situation: Situation, plan: FinetunePlan) -> Advice:
    """Accumulate to reach the effective batch."""
    if TASK_TYPES[situation.task_type].multiplies_by_batch:
        return embeddings.accumulation(situation, plan)
    wanted = effective_batch(situation)
    micro = plan.per_device_train_batch_size * plan.num_gpus
    value = max(1, math.ceil(wanted / micro))
    why = "LoRA loses quality above 32"
    if wanted == SMALL_DATA_BATCH:
        why = f"{situation.phrase('rows')} should still make 100 steps"
    if situation.gpu.is_cpu:
        why = f"on {situation.gpu.name} the first loss should come soon"
    return Advice(
        field="gradient_accumulation_steps",
        value=value,
        range=(max(1, math.ceil(wanted / 2 / micro)), max(1, math.ceil(2 * wanted / micro))),
        reason=f"{micro} x {value} make an effective batch of {micro * value}: {why}.",
        source=_BATCH,
    )


def max_length(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Cover 95% of the rows, up to the length that the model was made for."""
    limit = situation.model.max_position_embeddings or 2**24
    default = CPU_LENGTH if situation.gpu.is_cpu else DEFAULT_LENGTH
    value, most = default, 2 * default
    reason = f"{situation.phrase('tokens').capitalize()}: {default} tokens are enough for most instruction data"
    if situation.dataset_tokens is not None:
        _, p95, longest = situation.dataset_tokens
        value = ROUND_LENGTH_TO * math.ceil(p95 / ROUND_LENGTH_TO)
        most = ROUND_LENGTH_TO * math.ceil(longest / ROUND_LENGTH_TO)
        reason = situation.phrase("tokens").capitalize()
        if situation.gpu.is_cpu and value > 2 * CPU_LENGTH:
            value, reason = 2 * CPU_LENGTH, f"{reason}, here at {2 * CPU_LENGTH} since a CPU is slow"
        if TASK_TYPES[situation.task_type].reads_in_parts and value > PART_LENGTH:
            value, reason = PART_LENGTH, f"{reason}; BERT's authors read SQuAD in parts of {PART_LENGTH}"
        reason = f"{reason}; {situation.truncated(max(8, min(value, limit)))}"
    value = max(8, min(value, limit))
    if value == limit:
        reason += f"; {situation.model.name} was made for {limit:,} tokens"
    return Advice(
        field="max_length",
        value=value,
        range=(min(value, max(8, min(256, value))), max(value, min(most, limit))),
        reason=f"{reason}.",
        source=sources.TRL_SFT.at("max_length, default 1024"),
    )


def packing(situation: Situation, plan: FinetunePlan) -> Advice:
    """Keep every example in its own row unless the attention kernel keeps packed ones separate."""
    flash = plan.attn_implementation == "flash_attention_2"
    value = flash and situation.task == "domain"
    return Advice(
        field="packing",
        value=value,
        range=(False, True) if flash else (False,),
        reason=f"For {situation.phrase('task')} under {plan.attn_implementation}: "
        + ("packing avoids padding." if value else "only flash_attention_2 keeps packed examples separate."),
        source=sources.TRL_SFT.at("packing and padding_free"),
        confidence=Confidence.HIGH,
    )


def completion_only_loss(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Train on the answers, not the prompts; on all of plain text."""
    value = situation.task != "domain"
    return Advice(
        field="completion_only_loss",
        value=value,
        range=(value,) if situation.task == "domain" else (True, False),
        reason=f"For {situation.phrase('task')} "
        + ("the model should learn to answer, not to ask." if value else "there is no prompt: every token counts."),
        source=sources.TRL_SFT.at("completion_only_loss and assistant_only_loss"),
    )


def loss(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Compute the loss in chunks."""
    return Advice(
        field="loss",
        value="chunked",
        range=("chunked",),
        reason=f"TRL's default: the logits over {situation.model.vocab_size:,} words are never all in memory.",
        source=sources.TRL_SFT.at("loss_type nll, computed in chunks"),
        confidence=Confidence.HIGH,
    )


def attn_implementation(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Use PyTorch's fused attention wherever the model's code allows it."""
    model_type = situation.model.model_type
    eager = model_type in WITHOUT_SDPA | ENCODERS_WITHOUT_SDPA
    value = "eager" if eager else "sdpa"
    return Advice(
        field="attn_implementation",
        value=value,
        range=("eager",) if eager else ("sdpa", "flash_attention_2"),
        reason=f"transformers' {model_type} "
        + ("has no SDPA path." if eager else "runs on PyTorch's fused attention, which needs no extra package."),
        source=sources.TRANSFORMERS_ATTENTION,
        confidence=Confidence.HIGH,
    )


def gradient_checkpointing(situation: Situation, plan: FinetunePlan) -> Advice:
    """Recompute activations on GPUs unless speed is the goal; the search may keep them if there is enough memory."""
    value = not situation.gpu.is_cpu and situation.goal != "speed"
    return Advice(
        field="gradient_checkpointing",
        value=value,
        range=(True, False),
        reason=f"{plan.method} on {situation.gpu.name}, goal {situation.phrase('goal')}: recomputing costs "
        f"{CHECKPOINTING_COST} and keeps one input per layer instead of all activations.",
        source=sources.TORCHTUNE.at("README, ablation on a 3B model: 42% less memory, 21% slower"),
        confidence=Confidence.HIGH,
    )


def use_reentrant(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Use PyTorch's newer checkpointing, but not under ZeRO-3."""
    value = plan.sharding == "zero3"
    return Advice(
        field="use_reentrant",
        value=value,
        range=(value,),
        reason=f"With sharding {plan.sharding} "
        + ("PEFT needs the reentrant form." if value else "the non-reentrant form is TRL's default."),
        source=sources.PEFT_DEEPSPEED.at("ZeRO-3: use_reentrant=True"),
        confidence=Confidence.HIGH,
    )


def sharding(situation: Situation, plan: FinetunePlan) -> Advice:
    """Copy the model to each device if it fits; otherwise the search shards it."""
    value = "none" if situation.num_gpus == 1 else plan.sharding
    why = {
        "none": "nothing to shard.",
        "ddp": "each has the whole model and its own batch, which is fastest.",
        "fsdp": "a single one cannot hold the model, so its weights are sharded over all.",
    }
    return Advice(
        field="sharding",
        value=value,
        range=(value,) if value == "none" else ("ddp", "zero3", "fsdp"),
        reason=f"{situation.phrase('num_gpus').capitalize()}: {why.get(value, 'as chosen.')}",
        source=sources.PEFT_FSDP,
        confidence=Confidence.HIGH,
    )


def offload(situation: Situation, plan: FinetunePlan) -> Advice:
    """Keep everything on the devices; with too few of them, the optimizer can move to RAM at the cost of time."""
    choices = {"fsdp": ("none", "all"), "zero3": ("none", "optimizer", "all")}
    return Advice(
        field="offload",
        value="none",
        range=choices.get(plan.sharding, ("none", "optimizer")),
        reason=f"With sharding {plan.sharding} over {situation.phrase('num_gpus')} memory is already shared; "
        "what is in RAM would cross the bus in every step.",
        source=sources.ZERO_OFFLOAD,
        confidence=Confidence.MEDIUM,
    )


def every_n_layers(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Recompute every layer; with memory to spare, fewer layers take less time."""
    return Advice(
        field="every_n_layers",
        value=1,
        range=(1, 4),
        reason=f"Goal {situation.phrase('goal')}: 1 recomputes every layer and saves the most; of a higher number n, "
        "all but every n-th keep their activations, which saves their second forward pass.",
        source=sources.TRANSFORMERS_CHECKPOINTING.at("every_n_layers"),
        confidence=Confidence.HIGH,
    )


def activation_offloading(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Keep layer inputs on the device; at great lengths they can wait in RAM at the cost of time."""
    return Advice(
        field="activation_offloading",
        value=False,
        range=(False, True),
        reason=f"The inputs that checkpointing keeps grow with max_length ({plan.max_length}); to let them wait in RAM "
        f"takes {ACTIVATIONS_COST}.",
        source=sources.TRANSFORMERS_CHECKPOINTING.at("offload"),
        confidence=Confidence.HIGH,
    )


def torch_empty_cache_steps(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Keep PyTorch's cache; emptied before every backward pass, gaps that the forward pass left are not kept."""
    return Advice(
        field="torch_empty_cache_steps",
        value=None,
        range=(1, 1),
        reason=f"To ask {situation.gpu.name} for memory again takes time, so PyTorch keeps what is unused; 1 gives it "
        "back before every backward pass, which can lower the peak where loss is full.",
        source=sources.TRANSFORMERS.at("torch_empty_cache_steps: about 10 % slower"),
        confidence=Confidence.HIGH,
    )


def layer_offloading(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Keep all layers on the device; without room for them, they can wait in RAM at the cost of time."""
    return Advice(
        field="layer_offloading",
        value=False,
        range=(False, True),
        reason=f"{situation.gpu.name} is fastest with all layers in its own memory; to stream them from RAM takes "
        f"{LAYERS_COST}.",
        source=sources.AXOLOTL_STREAMING,
        confidence=Confidence.MEDIUM,
    )


_BATCH = sources.TRL_REGRET.at("keep the effective batch under 32; Guanaco, torchtune 16, LLaMA-Factory, LitGPT 8")
