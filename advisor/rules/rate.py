"""LoRA's learning rate: the measured optimum of a model's family and size, carried over to the plan's batch."""

import math
from dataclasses import dataclass

from advisor import sources
from advisor.advice import Confidence, Source, spelled
from advisor.situation import Situation

SWEEP_BATCH = 128
"""Sequences per step of the sweep that the optima come from."""

TINY_MODEL = 300_000_000
"""Models below this are so narrow that they need a higher rate; the smallest published recipe is for 0.5B."""
SMALL_MODEL = 4_500_000_000
"""The 4B class and below; the sweep has nothing between 4B and 8B."""

_HIGHEST = 1e-3
"""Of the sweep's 80 runs that diverged, 72 were at 3e-3 and the others at 1e-3 to 4e-3."""
_SPREAD = 2.5
"""A rate this many times higher or lower costs under 0.01 nats for most models of the sweep."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """The rate with the lowest held-out loss at rank 16, alpha 32 and ``SWEEP_BATCH``, for one family and size."""

    families: frozenset[str]
    """transformers' ``model_type``; empty for all others."""
    up_to: float
    """Parameters of the largest model that it stands for."""
    rate: float
    measured: str
    """The models that it was measured on."""


_LLAMA = frozenset({"llama"})
_QWEN3 = frozenset({"qwen3"})

OPTIMA = (
    Optimum(_LLAMA, SMALL_MODEL, 9.7e-4, "Llama-3.2-1B and 3B"),
    Optimum(_LLAMA, math.inf, 3.6e-4, "Llama-3.1-8B, base and Instruct"),
    Optimum(_QWEN3, 9e9, 7.9e-4, "Qwen3-4B-2507, 8B and 8B-Base"),
    Optimum(frozenset({"qwen3_moe", "qwen3_vl_moe"}), math.inf, 5.2e-4, "four models of Qwen3-30B-A3B"),
    Optimum(
        frozenset({"qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"}),
        math.inf,
        3.0e-4,
        "Qwen3.5-4B, 27B and 35B-A3B",
    ),
    Optimum(frozenset({"nemotron_h"}), math.inf, 4.9e-4, "Nemotron-3-Nano"),
    Optimum(frozenset({"gpt_oss"}), math.inf, 3.6e-4, "gpt-oss-120b"),
    Optimum(frozenset(), SMALL_MODEL, 6.8e-4, "four models of 1B to 4B"),
    Optimum(frozenset(), math.inf, 4.0e-4, "eleven models of 8B to 120B"),
)
"""The vertex of a parabola through the three losses around the lowest, over the logarithm of the rate; geometric means
where it stands for several models. ``tests/golden/rate_sweep.csv`` has the losses."""


def optimum(situation: Situation) -> Optimum:
    """Return the optimum of the model's family and size, or of all models of its size."""
    kind, size = situation.model.model_type, situation.num_params
    return next(one for one in OPTIMA if size <= one.up_to and (kind in one.families or not one.families))


def lora_rate(situation: Situation, batch: int) -> tuple[float, tuple[float, float], str, Source, Confidence]:
    """Return LoRA's learning rate, its range, why, the source and the confidence.

    Args:
        situation: The model.
        batch: Sequences per optimizer step, over all devices.
    """
    if situation.num_params < TINY_MODEL:
        where = sources.TINKER.at("hyperparam_utils.py: 5e-4 * (2000 / hidden_size) ** 0.781 for Llama shapes")
        why = "rates that suit large models hardly change one so narrow; Tinker's formula gives 1.3e-3 at width 576"
        return 1e-3, (3e-4, 2e-3), why, where, Confidence.MEDIUM
    best = optimum(situation)
    value = min(_HIGHEST, best.rate * math.sqrt(batch / SWEEP_BATCH))
    why = (
        f"{spelled(best.rate)} was best for {best.measured} at batch {SWEEP_BATCH}; "
        f"scaled with the square root of the batch, that is {spelled(float(f'{value:.2g}'))} at batch {batch}"
    )
    own = bool(best.families)
    where = sources.TINKER.at(
        "recipes/chat_sl/results/sft_sweep.md; docs: the rate grows with the square root of the batch"
    )
    ends = (float(f"{value / _SPREAD:.1g}"), float(f"{value * _SPREAD:.1g}"))
    return value, ends, why, where, Confidence.MEDIUM if own else Confidence.LOW
