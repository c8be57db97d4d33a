"""What was measured of adapters other than LoRA: the learning rate and the rank that each had in PEFT's comparison."""

from collections.abc import Mapping
from dataclasses import dataclass

from advisor import sources
from advisor.advice import Confidence, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The learning rate of a method that needs its own, and its rank, the same for any model and task."""

    value: float
    """The learning rate."""
    range: tuple[float, float]
    why: str
    source: Source
    confidence: Confidence = Confidence.MEDIUM
    r: int | None = None
    """The rank that this holds for; None for a method without one."""


def _row(name: str) -> Source:
    return sources.PEFT_BENCHMARK.at(name)


COMPARED: Mapping[str, Compared] = {
    "miss": Compared(
        value=1e-4,
        range=(3e-5, 3e-4),
        why="MiSS with r 64 reached 48.7% at 1e-4 in PEFT's comparison, where LoRA with r 32 reached 47.8%",
        source=_row("miss/llama-3.2-3B-default"),
        r=64,
    ),
    "oft": Compared(
        value=1e-4,
        range=(3e-5, 3e-4),
        why="OFT with blocks of 32 reached 49.1% at 1e-4 in PEFT's comparison",
        source=_row("oft/llama-3.2-3B-rank32"),
    ),
    "vera": Compared(
        value=1e-3,
        range=(3e-4, 1e-2),
        why="VeRA's vectors need large steps: 35.4% at 1e-3 and r 256 in PEFT's comparison",
        source=_row("vera/llama-3.2-3B-default"),
        r=256,
    ),
    "hira": Compared(
        value=4.5e-3,
        range=(1e-3, 1e-2),
        why="HiRA scales weights, which are small numbers, so its steps are large: 51.3% at 4.5e-3 and r 32 in PEFT's "
        "comparison",
        source=_row("hira/llama-3.2-3B-rank32-lr4.5e-3"),
        r=32,
    ),
    "loha": Compared(
        value=1e-4,
        range=(3e-5, 1e-3),
        why="LoHa with r 32 reached 39.3% at 1e-4 in PEFT's comparison, the only rate tried",
        source=_row("loha/llama-3.2-3B-rank32"),
        confidence=Confidence.LOW,
        r=32,
    ),
    "lokr": Compared(
        value=3e-3,
        range=(1e-3, 1e-2),
        why="LoKr with r 32 and factor 4 reached 46.6% at 3e-3 in PEFT's comparison",
        source=_row("lokr/llama-3.2-3B-rank32-factor4-lr0.003"),
        r=32,
    ),
    "beft": Compared(
        value=1e-3,
        range=(1e-4, 1e-2),
        why="biases of v_proj alone reached 32.1% at 1e-4 in PEFT's comparison; other vectors did better at 1e-3 and "
        "above",
        source=_row("beft/llama-3.2-3B-target-v_proj; vera and ia3 for the rates of vectors"),
        confidence=Confidence.LOW,
    ),
    "ln-tuning": Compared(
        value=5e-3,
        range=(1e-3, 1e-2),
        why="norms learned nothing at 1e-4 in PEFT's comparison (0.0%); IA3's vectors, which scale features as norms "
        "do, were best at 5e-3",
        source=_row("ln_tuning/llama-3.2-3B-default and ia3/llama-3.2-3B-all-attn-5k-lr0.005"),
        confidence=Confidence.LOW,
    ),
    "ia3": Compared(
        value=5e-3,
        range=(1e-3, 1e-2),
        why="IA3's few vectors need large steps: 45.5% at 5e-3 and 31.1% at 1e-4 in PEFT's comparison",
        source=_row("ia3/llama-3.2-3B-all-attn-5k-lr0.005 and ia3/llama-3.2-3B-default"),
    ),
    "prompt-tuning": Compared(
        value=1e-2,
        range=(1e-3, 3e-2),
        why="embeddings of virtual tokens need large steps: 23.4% at 1e-3 and 5.7% at 1e-4 in PEFT's comparison, and "
        "TRL starts at 1e-2",
        source=_row("prompt_tuning; TRL, PEFT integration: 1e-2 to 3e-2"),
    ),
    "prefix-tuning": Compared(
        value=5e-3,
        range=(1e-3, 1e-2),
        why="virtual keys and values need large steps: 35.8% at 5e-3 and 18.6% at 1e-3 in PEFT's comparison",
        source=_row("prefixtuning/llama-3.2-3B-lr_0.005_zero_init and -lr_0.001"),
    ),
}
"""Methods with their own learning rate, and their rank where they have one."""
