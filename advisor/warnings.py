"""What a person should know about a plan before starting it, each warning with its numbers and source."""

from collections.abc import Callable, Iterator

from advisor import sources
from advisor.advice import Caution, Estimate, spelled
from advisor.rules.batch import WITHOUT_SDPA
from advisor.rules.compared import COMPARED
from advisor.rules.method import defined_by
from advisor.rules.schedule import FEW_STEPS, total_steps
from advisor.situation import Situation
from specs import METHODS, TASK_TYPES, FinetunePlan, gib
from specs.adapters import INITS
from specs.effect import without_effect
from specs.gpu import WITHOUT_8BIT_OPTIMIZERS
from specs.sharing import BITSANDBYTES_OPTIMIZERS, UNSHARDED

Check = Callable[[Situation, FinetunePlan, Estimate | None], Iterator[Caution]]

_LEARNING_RATES = {"full": (1e-6, 1e-4), "adapter": (1e-6, 1e-3)}
_MAKERS = {"rocm": "AMD", "xpu": "Intel", "mps": "Apple"}
_SHARE_OF_LOGITS = 0.25


def cautions(situation: Situation, plan: FinetunePlan, estimate: Estimate | None) -> tuple[Caution, ...]:
    """Return everything worth a warning about a plan; what needs an estimate is left out if there is none."""
    return tuple(caution for check in CHECKS for caution in check(situation, plan, estimate))


def _unused(situation: Situation, plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    """Say of every field that the person set whether it changes nothing, and who says so."""
    for name, why in without_effect(plan, situation.pins):
        entry = TASK_TYPES[plan.task_type] if METHODS[plan.method].uses(name) else METHODS[plan.method]
        said = f"You set {name} to {spelled(getattr(plan, name))}, which changes nothing: {why}"
        yield Caution(name, said, defined_by(entry))


def _scale(_situation: Situation, plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    if not METHODS[plan.method].uses("lora_alpha") or not METHODS[plan.method].has_rank:
        return
    scale = plan.lora_alpha / (plan.r**0.5 if plan.use_rslora else plan.r)
    if not 0.25 <= scale <= 4:
        rule = "alpha / sqrt(r)" if plan.use_rslora else "alpha / r"
        yield Caution(
            "lora_alpha",
            f"lora_alpha {plan.lora_alpha} at r {plan.r} scales the update by {scale:.3g} ({rule}); recipes stay "
            "between 0.25 and 4; outside, the usual learning rates do not apply.",
            sources.LEARNS_LESS.at("section 4.7; QLoRA 0.25, torchtune 2"),
        )


def _learning_rate(_situation: Situation, plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    least, most = _LEARNING_RATES["full" if plan.method == "full" else "adapter"]
    told, source = "the range of published recipes for", sources.TRL_REGRET.at("learning rates")
    if found := COMPARED.get(plan.method):
        least, most = found.range
        told, source = f"a range around {found.value:g}, which was measured of few rates for", found.source
    if not least <= plan.learning_rate <= most:
        words = f"learning_rate {plan.learning_rate:g} is outside {least:g} to {most:g}"
        yield Caution("learning_rate", f"{words}, {told} {METHODS[plan.method].label}.", source)


def _large_rank(situation: Situation, plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    rows = situation.dataset_rows
    if METHODS[plan.method].peft_type == "LORA" and plan.r > 64 and rows is not None and rows < 1_000:
        yield Caution(
            "r",
            f"r {plan.r} on {rows:,} rows: about {situation.lora_params(plan.r) // rows:,} parameters per row are "
            "enough to memorize them.",
            sources.LEARNS_LESS.at("section 4.6, rank and forgetting"),
        )


def _few_targets(situation: Situation, plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    if not METHODS[plan.method].has_rank or plan.target_modules == "all-linear":
        return
    named = frozenset(plan.target_modules)
    if named & {"embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out"}:
        yield Caution(
            "target_modules",
            "Embeddings or the head are targeted: they are large and forget quickly. For new tokens, use PEFT's "
            "trainable_token_indices.",
            sources.PEFT_LORA.at("trainable_token_indices"),
        )
    missing = [name for name in situation.modules if name not in named and not situation.model.is_encoder]
    if len(named) <= 2 < len(situation.modules) and missing:
        yield Caution(
            "target_modules",
            f"Only {', '.join(plan.target_modules)} are trained, without {', '.join(missing)}. At equal size, "
            "attention alone does worse than adapters on all linear layers.",
            sources.LEARNS_LESS.at("figure 7"),
        )


def _half_precision(situation: Situation, plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    gpu = situation.gpu
    if plan.fp16 and gpu.bf16:
        yield Caution(
            "fp16",
            f"fp16 on {gpu.name}, which has bfloat16: float16 overflows where bfloat16 does not.",
            sources.QLORA_CODE.at("README, known issues"),
        )
    elif plan.fp16:
        yield Caution(
            "fp16",
            f"{gpu.name} has no bfloat16 units: about 1 in 5 QLoRA runs of 7B failed in float16. Watch the loss, or "
            "choose dtype float32 if memory allows.",
            sources.QLORA_CODE.at("README, known issues"),
        )
    elif plan.compute_dtype == "bfloat16" and not gpu.bf16:
        yield Caution("bf16", f"{gpu.name} has no bfloat16 units and emulates them slowly.", sources.CPU_MEASURED)


def _experts(situation: Situation, plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    model = situation.model
    if not model.expert_parameters or not plan.load_in_8bit:
        return
    bytes_16bit = 2 * 3 * model.hidden_size * model.expert_size * model.num_experts * model.num_hidden_layers
    yield Caution(
        "load_in_8bit",
        f"The {model.num_experts} experts of each layer ({', '.join(model.expert_parameters)}) are fused parameters, "
        f"which stay in 16 bit, about {gib(bytes_16bit)}: LoRAFit quantizes them to 4 bit only.",
        sources.BNB_EXPERTS,
    )


def _logits(situation: Situation, plan: FinetunePlan, estimate: Estimate | None) -> Iterator[Caution]:
    if estimate is None:
        return
    logits = estimate.components.get("logits", 0)
    if logits > _SHARE_OF_LOGITS * estimate.used_bytes:
        yield Caution(
            "loss",
            f"The logits over {situation.phrase('vocabulary')} take {gib(logits)} of {gib(estimate.used_bytes)} "
            f"under loss {plan.loss}.",
            sources.TRL_MEMORY,
        )


def _few_steps(situation: Situation, plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    steps = total_steps(situation, plan)
    if steps is not None and steps < FEW_STEPS:
        luck = f"under {FEW_STEPS}, a result is mostly luck"
        made = (
            f"{situation.dataset_rows or 0:,} rows at an effective batch of {plan.effective_batch_size} make {steps} "
            f"optimizer steps; {luck}. Use more rows, more epochs or a smaller batch."
        )
        ended = f"max_steps ends the run after {steps} optimizer steps; {luck}. Raise max_steps."
        yield Caution(
            "num_train_epochs",
            ended if plan.max_steps > 0 else made,
            sources.TINKER.at("docs, at least 100 steps"),
        )


def _tiny_data(situation: Situation, _plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    rows = situation.dataset_rows
    if rows is not None and rows < 500 and TASK_TYPES[situation.task_type].writes:
        yield Caution(
            "dataset_rows",
            f"{rows:,} rows: try prompting with examples first; fine-tuning starts to pay off at 500 to 1,000 rows.",
            sources.PREDIBASE,
        )


def _preference(situation: Situation, plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    if situation.task != "preference":
        return
    yield Caution(
        "per_device_train_batch_size",
        f"DPO sends the chosen and the rejected answer of {plan.per_device_train_batch_size} rows through the model "
        f"together, so memory is that of {2 * plan.per_device_train_batch_size} sequences.",
        sources.TRL_DPO.at("DataCollatorForPreference"),
    )
    if plan.method in {"full", "adalora"} or INITS[plan.init_lora_weights].changes_base:
        yield Caution(
            "method",
            f"{METHODS[plan.method].label} cannot be switched off to get back the base model, DPO's reference: "
            "choose LoRA or QLoRA without PiSSA or OLoRA.",
            sources.TRL_DPO.at("reference model of a PEFT model"),
        )


def _attention(situation: Situation, plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    if situation.model.model_type in WITHOUT_SDPA and plan.max_length > 2048:
        yield Caution(
            "max_length",
            f"{situation.model.model_type} runs eager attention: memory grows with the square of {plan.max_length:,} "
            "tokens.",
            sources.TRANSFORMERS_ATTENTION,
        )


def _longer_than_model(situation: Situation, plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    limit = situation.model.max_position_embeddings
    if limit is not None and plan.max_length > limit:
        yield Caution(
            "max_length",
            f"max_length {plan.max_length:,} exceeds the {limit:,} tokens that {situation.model.name} was made for.",
            sources.TRL_SFT.at("max_length"),
        )


def _large_batch(_situation: Situation, plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    if plan.effective_batch_size > 64 and plan.method != "full":
        yield Caution(
            "gradient_accumulation_steps",
            f"An effective batch of {plan.effective_batch_size} is large: LoRA loses more than full fine-tuning above "
            "32, and a higher rank does not help.",
            sources.TRL_REGRET.at("batch size"),
        )


def _not_run_here(situation: Situation, plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    if plan.sharding not in UNSHARDED:
        if plan.sharding != "fsdp" or not situation.gpu.is_cpu:
            yield Caution(
                "sharding",
                f"sharding {plan.sharding} splits the model over {plan.num_gpus:,} devices: LoRAFit's own runs were "
                "tested only with ddp, and on CPUs with fsdp. Export the script with its accelerate configuration.",
                sources.TRAINER,
            )
        if plan.optim in BITSANDBYTES_OPTIMIZERS:
            yield Caution(
                "optim",
                f"{plan.optim} is a bitsandbytes optimizer and cannot update weights that {plan.sharding} shards: "
                "choose adamw_torch_fused.",
                sources.BNB_FSDP,
            )


def _untried(situation: Situation, plan: FinetunePlan, _estimate: Estimate | None) -> Iterator[Caution]:
    """Say of devices that LoRAFit never ran on that it did not, and what their packages do not do."""
    backend = situation.gpu.backend
    if backend not in _MAKERS:
        return
    yield Caution(
        "num_gpus",
        f"LoRAFit has never run on a GPU of {_MAKERS[backend]}: memory and time follow from its figures and what "
        "PyTorch documents, untried. Its build of PyTorch must be installed by hand.",
        sources.TRAINER,
    )
    if backend in WITHOUT_8BIT_OPTIMIZERS and plan.optim in BITSANDBYTES_OPTIMIZERS:
        yield Caution(
            "optim",
            f"{plan.optim} is a bitsandbytes optimizer, and there are none for {_MAKERS[backend]}'s GPUs yet: choose "
            "adamw_torch.",
            sources.BNB_PLATFORMS,
        )


CHECKS: tuple[Check, ...] = (
    _unused,
    _scale,
    _learning_rate,
    _large_rank,
    _few_targets,
    _half_precision,
    _experts,
    _logits,
    _few_steps,
    _tiny_data,
    _preference,
    _attention,
    _longer_than_model,
    _large_batch,
    _not_run_here,
    _untried,
)
