"""What the textbook says: its table, starter recipe, ranks by task, data size limits and decision matrix."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from advisor.situation import Situation
from specs import GIB, METHODS


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the textbook table; a pair is a range as printed."""

    size: str
    billions: float
    """Typical size of the class, to find the nearest class for a model in between."""
    memory_gib: tuple[float, float]
    method: str
    r: tuple[int, int]
    lora_alpha: tuple[int, int]
    targets: str
    """Roles of the targeted modules: q, k, v, o and m for the feed-forward layers."""
    lora_dropout: tuple[float, float]
    double_quant: bool = False
    learning_rate: tuple[float, float]


TABLE = (
    Row(
        size="1B-3B",
        billions=1.7,
        memory_gib=(12, math.inf),
        method="lora",
        r=(8, 16),
        lora_alpha=(16, 32),
        targets="qv",
        lora_dropout=(0.05, 0.05),
        learning_rate=(2e-4, 2e-3),
    ),
    Row(
        size="7B",
        billions=7,
        memory_gib=(24, math.inf),
        method="lora",
        r=(8, 16),
        lora_alpha=(16, 32),
        targets="qv",
        lora_dropout=(0.05, 0.05),
        learning_rate=(2e-4, 1e-3),
    ),
    Row(
        size="7B",
        billions=7,
        memory_gib=(12, 16),
        method="qlora",
        r=(4, 8),
        lora_alpha=(16, 16),
        targets="qv",
        lora_dropout=(0.05, 0.05),
        learning_rate=(1e-4, 5e-4),
    ),
    Row(
        size="13B",
        billions=13,
        memory_gib=(32, math.inf),
        method="lora",
        r=(16, 32),
        lora_alpha=(32, 64),
        targets="qkvo",
        lora_dropout=(0.05, 0.1),
        learning_rate=(2e-4, 8e-4),
    ),
    Row(
        size="13B",
        billions=13,
        memory_gib=(16, 24),
        method="qlora",
        r=(8, 16),
        lora_alpha=(16, 32),
        targets="qv",
        lora_dropout=(0.05, 0.05),
        learning_rate=(1e-4, 3e-4),
    ),
    Row(
        size="33B",
        billions=33,
        memory_gib=(64, math.inf),
        method="lora",
        r=(16, 32),
        lora_alpha=(32, 64),
        targets="qkvo",
        lora_dropout=(0.05, 0.1),
        learning_rate=(1e-4, 5e-4),
    ),
    Row(
        size="33B",
        billions=33,
        memory_gib=(24, 32),
        method="qlora",
        r=(8, 16),
        lora_alpha=(16, 32),
        targets="qv",
        lora_dropout=(0.05, 0.05),
        double_quant=True,
        learning_rate=(1e-4, 3e-4),
    ),
    Row(
        size="65B",
        billions=65,
        memory_gib=(128, math.inf),
        method="lora",
        r=(32, 64),
        lora_alpha=(64, 128),
        targets="qkvom",
        lora_dropout=(0.05, 0.1),
        learning_rate=(1e-4, 2e-4),
    ),
    Row(
        size="65B",
        billions=65,
        memory_gib=(40, 48),
        method="qlora",
        r=(8, 16),
        lora_alpha=(32, 64),
        targets="qv",
        lora_dropout=(0.05, 0.05),
        double_quant=True,
        learning_rate=(5e-5, 2e-4),
    ),
)
"""The nine rows as printed; sizes are LLaMA's, memory is in GB."""

TASK_RANKS: Mapping[str, int] = MappingProxyType(
    {
        "classification": 4,
        "style": 8,
        "instruction": 16,
        "domain": 16,
        "reasoning": 32,
        "code": 32,
        "preference": 8,
    }
)
"""The textbook's least ranks by task complexity; the row of the table limits them."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One row of the decision matrix."""

    given: str
    """What a person has or wants, as printed."""
    methods: tuple[str, ...]
    applies: Callable[[Situation], bool]
    also: str = ""
    """What the answer adds to the methods."""

    @property
    def answer(self) -> str:
        """The answer, as printed."""
        return " or ".join(METHODS[name].label for name in self.methods) + self.also


DECISION_MATRIX = (
    Decision("8x A100", ("full", "lora"), lambda asked: asked.num_gpus >= 8 and "A100" in asked.gpu.name),
    Decision("1x A100", ("lora",), lambda asked: asked.num_gpus == 1 and "A100" in asked.gpu.name),
    Decision("RTX 4090", ("qlora",), lambda asked: asked.num_gpus == 1 and "RTX 4090" in asked.gpu.name),
    Decision("1,000 examples", ("lora", "qlora"), lambda asked: 0 < (asked.dataset_rows or 0) < 10_000),
    Decision("100,000 examples", ("full", "lora", "qlora"), lambda asked: (asked.dataset_rows or 0) >= 10_000),
    Decision("best accuracy", ("full", "lora"), lambda asked: asked.goal == "quality", " with r = 32"),
    Decision("efficiency", ("qlora",), lambda asked: asked.goal == "memory"),
)
"""The decision matrix; what it says about a number of examples is applied to the numbers nearest to it."""

STARTER_RECIPE: Mapping[str, Any] = MappingProxyType(
    {
        "learning_rate": 2e-4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": 3.0,
        "max_length": 512,
        "weight_decay": 0.01,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "bias": "none",
        "bnb_4bit_quant_type": "nf4",
    }
)
"""What the textbook starts from if the table has no value."""

SMALL_DATA_ROWS = 1_000
LARGE_DATA_ROWS = 100_000


def row(situation: Situation) -> Row:
    """Return the table's row for a model and card: the nearest size, then the method that the decision matrix allows.

    Where the matrix leaves a choice, LoRA if there is enough memory for it. The table has no full fine-tuning.
    """
    size = situation.num_params / 1e9
    nearest = min(TABLE, key=lambda entry: abs(math.log(entry.billions / size))).size
    rows = [entry for entry in TABLE if entry.size == nearest]
    allowed = [entry for entry in rows if entry.method in _allowed(situation)] or rows
    memory = situation.gpu.memory_bytes * situation.num_gpus / GIB
    return next((entry for entry in allowed if memory >= entry.memory_gib[0]), allowed[-1])


def decisions(situation: Situation) -> tuple[Decision, ...]:
    """Return the rows of the decision matrix that apply to a situation."""
    return tuple(entry for entry in DECISION_MATRIX if entry.applies(situation))


def _allowed(situation: Situation) -> frozenset[str]:
    """Return the methods that the matrix allows; where two of its rows disagree, what the person wants decides."""
    allowed = frozenset(METHODS)
    for entry in reversed(decisions(situation)):
        allowed = allowed & frozenset(entry.methods) or allowed
    return allowed
