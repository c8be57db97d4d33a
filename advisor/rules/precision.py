"""Evidence about number formats: quantization, dtypes and mixed precision."""

from advisor import sources
from advisor.advice import Advice, Confidence, Source
from advisor.situation import Situation
from specs import METHODS, FinetunePlan
from specs.adapters import Quantization
from specs.sharing import DIVIDES_WEIGHTS


def load_in_4bit(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Follow the method."""
    return _follows_method(plan, "load_in_4bit", quantization="4bit")


def load_in_8bit(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Follow the method."""
    return _follows_method(plan, "load_in_8bit", quantization="8bit")


def bnb_4bit_quant_type(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Use NF4; the library's default is FP4."""
    return Advice(
        field="bnb_4bit_quant_type",
        value="nf4",
        range=("nf4",),
        reason=f"Under {plan.method}, NF4 reaches perplexity 27.41 and FP4 29.48 to 31.07 in the same "
        "4 bits; bitsandbytes' own default is fp4.",
        source=sources.QLORA.at("table 2"),
        confidence=Confidence.HIGH,
    )


def bnb_4bit_use_double_quant(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Quantize the constants too."""
    saved = situation.num_params * 0.373 / 8 / 2**30
    return Advice(
        field="bnb_4bit_use_double_quant",
        value=True,
        range=(True,),
        reason=f"Quantizing the constants saves 0.373 bits per weight, {saved:.1f} GiB on {situation.phrase('model')}, "
        "with no measured loss.",
        source=sources.QLORA.at("section 3, double quantization; LitGPT measured 0.3 GB at 7B"),
        confidence=Confidence.HIGH,
    )


def bnb_4bit_quant_storage(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Pack into the dtype of the other weights under FSDP, otherwise into bytes."""
    sharded = plan.sharding in DIVIDES_WEIGHTS
    return Advice(
        field="bnb_4bit_quant_storage",
        value=plan.dtype if sharded else "uint8",
        range=(plan.dtype,) if sharded else ("uint8",),
        reason=f"With sharding {plan.sharding} "
        + ("all weights must have one dtype to be sharded." if sharded else "bytes are the default."),
        source=sources.PEFT_FSDP.at("quantized models"),
        confidence=Confidence.HIGH,
    )


_OVERFLOWS = frozenset({"t5", "mt5", "umt5", "longt5", "switch_transformers"})
_T5 = sources.TRANSFORMERS.at("T5ForConditionalGeneration, _keep_in_fp32_modules = ['wo']")


def dtype(situation: Situation, plan: FinetunePlan) -> Advice:
    """Use bfloat16 if the card supports it, otherwise float16; float32 on a CPU."""
    gpu = situation.gpu
    if gpu.is_cpu:
        value, source = "float32", sources.CPU_MEASURED
        why = "is a CPU, where training in float32 is at least as fast as in bfloat16"
    elif gpu.bf16:
        value, why, source = "bfloat16", "computes in bfloat16, whose range needs no loss scaling", _BF16
    elif situation.model.model_type in _OVERFLOWS:
        value, source = "float32", _T5
        why = f"has no bfloat16 units, and {situation.model.model_type}, trained in bfloat16, overflows in float16"
    elif plan.method == "full":
        value, why, source = "float32", "has no bfloat16 units: trained weights stay in float32", _FP16
    else:
        value, why, source = "float16", "has no bfloat16 units", _FP16
    return Advice(
        field="dtype",
        value=value,
        range=(value, "bfloat16") if gpu.is_cpu else (value,) if gpu.bf16 else (value, "float32"),
        reason=f"{gpu.name} {why}.",
        source=source,
        confidence=Confidence.HIGH,
    )


def bf16(situation: Situation, plan: FinetunePlan) -> Advice:
    """Autocast to bfloat16 on a card that supports it."""
    able = situation.gpu.bf16 and not plan.fp16 and not situation.gpu.is_cpu
    return Advice(
        field="bf16",
        value=able,
        range=(able,),
        reason=f"{situation.gpu.name} " + ("has bfloat16 units." if able else "computes in another number format."),
        source=_BF16,
        confidence=Confidence.HIGH,
    )


def fp16(situation: Situation, plan: FinetunePlan) -> Advice:
    """Autocast to float16 only if the card has no bfloat16."""
    value = not plan.bf16 and not situation.gpu.is_cpu
    reason = "computes in bfloat16, which needs no loss scaling." if plan.bf16 else "computes in float32."
    if value:
        reason = (
            "has no bfloat16 units, so float16 with loss scaling; about 1 in 5 such 7B runs failed: watch the loss."
        )
    return Advice(
        field="fp16",
        value=value,
        range=(False, True) if value else (False,),
        reason=f"{situation.gpu.name} {reason}",
        source=_FP16 if value else _BF16,
        confidence=Confidence.HIGH,
    )


def adapter_dtype(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Keep the adapter in float32."""
    return Advice(
        field="adapter_dtype",
        value="float32",
        range=("float32", "bfloat16") if plan.bf16 else ("float32",),
        reason=f"The {plan.method} adapter is small, and small updates survive in float32, PEFT's default.",
        source=sources.PEFT_LORA.at("autocast_adapter_dtype"),
        confidence=Confidence.HIGH,
    )


def prepare_kbit(situation: Situation, plan: FinetunePlan) -> Advice:
    """Do not upcast norms, embeddings and the head to 32-bit."""
    model = situation.model
    tables = model.vocab_size * model.hidden_size * (1 if model.tie_word_embeddings else 2)
    return Advice(
        field="prepare_kbit",
        value=False,
        range=(False,),
        reason=f"Under {plan.method} it would upcast embeddings and head of {model.name} to float32, "
        f"{2 * tables / 2**30:.1f} GiB more at rest for the same result; TRL dropped it.",
        source=sources.KBIT.at("same results without the upcast"),
        confidence=Confidence.HIGH,
    )


def _follows_method(plan: FinetunePlan, field: str, *, quantization: Quantization) -> Advice:
    entry = METHODS[plan.method]
    title, _, url = entry.source.rpartition(", ")
    value = entry.quantization == quantization
    free = entry.quantization is None
    kept = _KEPT[entry.quantization or "none"]
    return Advice(
        field=field,
        value=value,
        range=(False, True) if free else (value,),
        reason=f"Method {plan.method} keeps the base model in {kept}{', unless you quantize it' if free else ''}.",
        source=Source(title or entry.label, url),
        confidence=Confidence.HIGH,
    )


_KEPT = {"none": "16- or 32-bit", "8bit": "8-bit", "4bit": "4-bit"}
_BF16 = sources.TRL_SFT.at("bf16")
_FP16 = sources.QLORA_CODE.at("README, known issues: float16 compute")
