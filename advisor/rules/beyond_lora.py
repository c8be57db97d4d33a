"""Evidence about adapters other than LoRA (AdaLoRA's ranks, blocks, virtual tokens) and about ranks per module."""

import math
from functools import partial

from advisor import sources
from advisor.advice import Advice, Confidence
from advisor.rules import adapter
from advisor.rules.schedule import total_steps
from advisor.situation import Situation
from specs import FinetunePlan

PROMPT_TOKENS = 20
"""Sources of both numbers at ``num_virtual_tokens``."""
PREFIX_TOKENS = 50
BLOCK_SIZE, DECOMPOSE_FACTOR = 32, 4
START_OVER_TARGET = 1.5
WARM_UP_SHARE, LAST_SHARE = 0.1, 0.5


def init_r(situation: Situation, plan: FinetunePlan) -> Advice:
    """Start with 1.5 times the rank that should remain."""
    remaining = _remaining_rank(situation, plan)
    value = min(4096, math.ceil(START_OVER_TARGET * remaining))
    return Advice(
        field="init_r",
        value=value,
        range=(remaining + 1, 2 * remaining),
        reason=f"For {situation.phrase('task')} rank {remaining} should remain on average: AdaLoRA starts with 1.5 "
        "times as much and prunes what matters least.",
        source=sources.ADALORA.at("section 4, initial budget 1.5 times the final one"),
    )


def target_r(situation: Situation, plan: FinetunePlan) -> Advice:
    """Keep, on average, the rank that LoRA would have."""
    wanted = _remaining_rank(situation, plan)
    value = min(wanted, plan.init_r - 1)
    return Advice(
        field="target_r",
        value=value,
        range=(1, plan.init_r - 1),
        reason=f"For {situation.phrase('task')} LoRA would take r = {wanted}; AdaLoRA keeps {value} per module on "
        f"average, out of init_r {plan.init_r}.",
        source=sources.ADALORA.at("section 4; PEFT's comparison: 37.3% at PEFT's defaults, LoRA 47.8%"),
        confidence=Confidence.LOW,
    )


def tinit(situation: Situation, plan: FinetunePlan) -> Advice:
    """Train with all ranks for the first tenth of the run."""
    steps = total_steps(situation, plan)
    return _part_of_run(situation, steps, "tinit", WARM_UP_SHARE, "before any rank is pruned")


def tfinal(situation: Situation, plan: FinetunePlan) -> Advice:
    """Train with the remaining ranks for the last half of the run."""
    steps = total_steps(situation, plan)
    return _part_of_run(situation, steps, "tfinal", LAST_SHARE, "with the remaining ranks")


def deltaT(situation: Situation, plan: FinetunePlan) -> Advice:  # noqa: N802 - PEFT's name
    """Reallocate ranks about a thousand times at most."""
    value = max(1, (total_steps(situation, plan) or 0) // 1_000)
    return Advice(
        field="deltaT",
        value=value,
        range=(1, 100),
        reason=f"{situation.phrase('rows').capitalize()}: ranks are reallocated every {'step' if value == 1 else value}"
        f"{'' if value == 1 else ' steps'}; less often in a longer run.",
        source=_SCHEDULE,
        confidence=Confidence.LOW,
    )


def oft_block_size(situation: Situation, plan: FinetunePlan) -> Advice:
    """Turn 32 inputs together."""
    trained = situation.adapter_params(plan)
    of = f", of {trained:,} weights in all with {plan.oft_block_size}" if trained else ""
    return Advice(
        field="oft_block_size",
        value=BLOCK_SIZE,
        range=(16, 128),
        reason=f"Under {plan.method}, blocks of 32 were measured and are PEFT's default; larger ones train more{of}.",
        source=sources.PEFT_BENCHMARK.at("oft/llama-3.2-3B-rank32"),
        confidence=Confidence.LOW,
    )


def decompose_factor(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Split each size of a layer by 4."""
    return Advice(
        field="decompose_factor",
        value=DECOMPOSE_FACTOR,
        range=(4, 16),
        reason=f"Under {plan.method}, factor 4 was measured; a larger one makes the large matrix smaller.",
        source=sources.PEFT_BENCHMARK.at("lokr/llama-3.2-3B-rank32-factor4-lr0.003"),
        confidence=Confidence.LOW,
    )


def num_virtual_tokens(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Use 20 embeddings, or a prefix of 50 keys and values."""
    prefix = plan.method == "prefix-tuning"
    why = (
        "a prefix of 50 reached 41.6% in PEFT's comparison, one of 200 started from zeros 35.8%"
        if prefix
        else "beyond 20 virtual tokens the paper gains little, and each lengthens every sequence"
    )
    source = sources.PEFT_BENCHMARK.at("prefixtuning/llama-3.2-3B-tokens50-init_prefix-lr_0.005")
    return Advice(
        field="num_virtual_tokens",
        value=PREFIX_TOKENS if prefix else PROMPT_TOKENS,
        range=(10, 200),
        reason=f"Under {plan.method}: {why}.",
        source=source if prefix else sources.PROMPT_TUNING.at("section 3.2, prompt length"),
    )


def prompt_tuning_init(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Start virtual tokens as words of the vocabulary."""
    return Advice(
        field="prompt_tuning_init",
        value="SAMPLE_VOCAB",
        range=("SAMPLE_VOCAB",),
        reason=f"Under {plan.method}, starting from words of the vocabulary reached 34.3% and from random numbers "
        "23.4% in PEFT's comparison.",
        source=sources.PEFT_BENCHMARK.at("prompt_tuning/llama-3.2-3B-sample_vocab-lr_0.001 and -lr_0.001"),
        confidence=Confidence.HIGH,
    )


def _pattern(field: str, _situation: Situation, plan: FinetunePlan) -> Advice:
    """Give every module the same rank and scale."""
    return Advice(
        field=field,
        value=(),
        range=((),),
        reason=f"One r = {plan.r} for all modules: which of them need more is not known before a run; AdaLoRA finds "
        "out while it trains.",
        source=sources.PEFT_LORA.at(field),
        confidence=Confidence.LOW,
    )


rank_pattern = partial(_pattern, "rank_pattern")
alpha_pattern = partial(_pattern, "alpha_pattern")


def _nothing(field: str, why: str, situation: Situation, _plan: FinetunePlan) -> Advice:
    """Leave a field empty that adds to the adapter, or takes from it."""
    return Advice(
        field=field,
        value=(),
        range=((),),
        reason=f"For {situation.model.model_type}: {why}.",
        source=sources.PEFT_LORA.at(field),
    )


layers_to_transform = partial(
    _nothing, "layers_to_transform", "which layers matter is not known before a run, so every layer is adapted"
)
modules_to_save = partial(
    _nothing, "modules_to_save", "a module trained whole takes gradients and states for each of its weights"
)
trainable_token_indices = partial(
    _nothing, "trainable_token_indices", "its tokens are trained already; only those that are new need it"
)


def _remaining_rank(situation: Situation, plan: FinetunePlan) -> int:
    pinned: int | None = situation.pins.get("target_r")
    return pinned or int(adapter.r(situation, plan).value)


def _part_of_run(situation: Situation, steps: int | None, field: str, share: float, why: str) -> Advice:
    """Return a share of the run in steps; 0 if the length of the run is unknown or too short."""
    value = int(share * steps) if steps is not None else 0
    known = f"{situation.phrase('rows').capitalize()} make an unknown number of steps"
    if steps is not None:
        known = f"{situation.phrase('rows').capitalize()} make {steps:,} steps"
    return Advice(
        field=field,
        value=value,
        range=(0, max(1, value)),
        reason=f"{known}: {value:,} of them {why}, as in the paper's own runs.",
        source=_SCHEDULE,
        confidence=Confidence.LOW,
    )


_SCHEDULE = sources.ADALORA_CODE.at(
    "NLU/scripts/run_debertav3_mnli.sh: of 85,900 steps the first 8,000 and the last 50,000, every 100"
)
