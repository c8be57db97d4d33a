"""Time and cost before a run: the step's arithmetic over the card's throughput, with an error band."""

from dataclasses import dataclass
from typing import Any

from advisor.rules.schedule import total_steps
from advisor.situation import Situation
from specs import METHODS, FinetunePlan, ModelSpec

BAND = (0.5, 2.0)
"""Error factors, down and up, on a known card; every published row of tests/golden/speed.csv lies within them."""

EFFICIENCY = 0.5
"""Share of the specified 16-bit throughput that dense layers reach. Fitted to 18 published A100 rows, where it is 0.41
to 0.64 from 1,024 tokens up: github QwenLM/Qwen README (profiling) and github foundation-model-stack/
fms-acceleration scripts/benchmarks/refs/a100_80gb.csv."""

SECONDS_PER_LAYER = 1e-3
"""Time to launch the kernels of one layer once: what the Qwen rows at 256 and 512 tokens leave unexplained."""

BANDWIDTH_SHARE = 0.5
"""Share of the specified memory bandwidth that expanding 4-bit weights reaches; an assumption within the band."""

_SLOWER = {"dora": 1191 / 942}
"""Compared with LoRA: PEFT method comparison, MetaMathQA, lora/llama-3.2-3B-rank32-dora 1191 s, rank32 942 s."""

EIGHT_BIT_SLOWER = 2.5
"""LLM.int8() compared with 16-bit: 2 to 3 times slower in LoRA training on an RTX A5000 (github
bitsandbytes-foundation/bitsandbytes issue 465), 2.5 times on a T4 (https://earino.github.io/applied-deep-learning/site/blog/11_int8_is_slower.html)."""

EIGHT_BIT_SPREAD = 1.5
"""Factor by which those figures differ from each other."""

_CPU_SLOWER = {"4bit": 1.1, "8bit": 1.3}
_CPU_HALF_SLOWER = 1.7
"""Compared with LoRA in float32 on the same CPU; ``sources.CPU_MEASURED``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How long a run will take: an estimate, right to within the factors of ``band``."""

    seconds_per_step: float
    tokens_per_second: float
    """Tokens of all devices, padding included."""
    steps: int | None
    """Optimizer steps of the whole run; None if the data is unknown."""
    band: tuple[float, float] = BAND
    """Factors between which the real time lies; wider if the device or the arithmetic is less well known."""

    @property
    def total_seconds(self) -> float | None:
        """Time of the whole run, without loading; None if the data is unknown."""
        return None if self.steps is None else self.steps * self.seconds_per_step

    def cost(self, price_per_hour: float) -> float | None:
        """Return what the run costs at a price per hour of all devices together."""
        return None if self.total_seconds is None else self.total_seconds / 3600 * price_per_hour

    def to_dict(self) -> dict[str, Any]:
        """Return the speed as plain JSON values."""
        return {
            "kind": "estimate",
            "seconds_per_step": self.seconds_per_step,
            "tokens_per_second": self.tokens_per_second,
            "steps": self.steps,
            "total_seconds": self.total_seconds,
            "band": list(self.band),
        }


def step_speed(situation: Situation, plan: FinetunePlan) -> Speed | None:
    """Return the speed of a plan, or None if the device's throughput in the plan's dtype is unknown."""
    seconds = micro_step_seconds(situation, plan)
    if seconds is None:
        return None
    per_step = seconds * plan.gradient_accumulation_steps
    tokens = _padded_length(situation, plan) * situation.as_priced(plan).effective_batch_size
    spread = situation.gpu.throughput_spread * (EIGHT_BIT_SPREAD if plan.load_in_8bit else 1)
    return Speed(
        seconds_per_step=per_step,
        tokens_per_second=tokens / per_step,
        steps=total_steps(situation, plan),
        band=(BAND[0] / spread, BAND[1] * spread),
    )


def why_unknown(situation: Situation, plan: FinetunePlan) -> str:
    """Return why there is no speed for a plan, in one sentence; empty if there is one."""
    if micro_step_seconds(situation, plan) is not None:
        return ""
    return (
        f"No time is given: no throughput in {plan.compute_dtype} is published for {situation.gpu.name}. "
        "The first steps of a run will show it."
    )


def relative_time(situation: Situation, plan: FinetunePlan, other: FinetunePlan) -> float | None:
    """Return the time of a plan for the same data, divided by that of another plan."""
    mine, theirs = step_speed(situation, plan), step_speed(situation, other)
    if mine is None or theirs is None:
        return None
    return theirs.tokens_per_second / mine.tokens_per_second


def micro_step_seconds(situation: Situation, plan: FinetunePlan) -> float | None:
    """Return the time of one forward and backward pass on one device: arithmetic, launches, expansion of weights."""
    tflops, expansion = throughput(situation, plan), _expansion_seconds(situation, plan)
    if tflops is None or expansion is None:
        return None
    arithmetic = step_flops(situation, plan) / (tflops * 1e12 * EFFICIENCY)
    launches = (_passes(plan) + _reference_passes(situation)) * situation.model.num_hidden_layers * SECONDS_PER_LAYER
    return (arithmetic + launches + expansion) * _SLOWER.get(plan.method, 1.0)


def throughput(situation: Situation, plan: FinetunePlan) -> float | None:
    """Return the peak TFLOP/s of a device in a plan's arithmetic; None if unknown."""
    gpu, in_float32 = situation.gpu, plan.compute_dtype == "float32"
    rate = gpu.float32_tflops if in_float32 or gpu.is_cpu else gpu.half_tflops
    if rate is None:
        return None
    if gpu.is_cpu:
        return rate / _CPU_SLOWER.get(plan.quantization, 1.0) / (1.0 if in_float32 else _CPU_HALF_SLOWER)
    return rate / EIGHT_BIT_SLOWER if plan.load_in_8bit else rate


def _expansion_seconds(situation: Situation, plan: FinetunePlan) -> float | None:
    """Return the time to expand 4-bit weights on a card: each pass reads half a byte of every weight and writes two."""
    if not plan.load_in_4bit or situation.gpu.is_cpu:
        return 0.0
    bandwidth = situation.gpu.memory_bandwidth_gb_s
    if bandwidth is None:
        return None
    return _passes(plan) * 2.5 * matmul_params(situation) / (bandwidth * 1e9 * BANDWIDTH_SHARE)


def _passes(plan: FinetunePlan) -> int:
    return 3 if plan.gradient_checkpointing else 2


def step_flops(situation: Situation, plan: FinetunePlan) -> float:
    """Return the floating-point operations of one forward and backward pass on one device.

    Per weight and token: two forward, two for the gradient of the inputs, two for that of trained weights, two more to
    recompute, two more for DPO's reference pass. Causal attention: 2 s q per token and layer forward, 2.5 times that
    backward (FlashAttention-2, https://arxiv.org/abs/2307.08691, section 4.1).
    """
    model = situation.model
    length = _padded_length(situation, plan)
    tokens = situation.as_priced(plan).per_device_train_batch_size * length
    recomputed = _reference_passes(situation) + (1 if plan.gradient_checkpointing else 0)
    trained = 0 if METHODS[plan.method].trains_adapter else 1
    dense = 2 * matmul_params(situation) * tokens * (2 + recomputed + trained)
    attention_width = model.num_attention_heads * model.head_dim * model.num_hidden_layers
    return dense + 2 * attention_width * tokens * length * (3.5 + recomputed)


def matmul_params(situation: Situation) -> int:
    """Return the weights that each token is multiplied by: all but the embedding table and the experts it skips."""
    model = situation.model
    table = 0 if model.tie_word_embeddings else model.vocab_size * model.hidden_size
    return situation.num_params - table - _idle_expert_params(model)


def _idle_expert_params(model: ModelSpec) -> int:
    """Return the expert weights that a token is not routed to."""
    config = model.config
    used = int(config.get("num_experts_per_tok") or config.get("num_experts_per_token") or model.num_experts)
    width = int(config.get("moe_intermediate_size") or model.intermediate_size)
    return 3 * model.hidden_size * width * max(0, model.num_experts - used) * model.num_hidden_layers


def _reference_passes(situation: Situation) -> int:
    """Return the forward passes on top of those of training: DPO's pass through the base model."""
    return 1 if situation.task == "preference" else 0


def _padded_length(situation: Situation, plan: FinetunePlan) -> int:
    """Return the tokens of one sequence with padding: the median if alone, the 95th percentile in a batch."""
    if situation.dataset_tokens is None or plan.packing:
        return plan.max_length
    median, p95, _ = situation.dataset_tokens
    return min(plan.max_length, median if plan.per_device_train_batch_size == 1 else p95)
