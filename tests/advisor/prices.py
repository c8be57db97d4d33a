"""Prices in round numbers, so that what the search does with them can be followed by hand."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from advisor import Situation
from specs import GIB, FinetunePlan
from tests.advisor.pricing import situation


@dataclasses.dataclass(frozen=True)
class Priced:
    """So many bytes, of which so many are logits."""

    used_bytes: int = 8 * GIB
    logits: int = 0
    trainable_params: int = 0
    num_params: int = 0

    @property
    def components(self) -> dict[str, int]:
        return {"logits": self.logits, "weights": self.used_bytes - self.logits}

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def hundred(**values: Any) -> Situation:
    """Return a situation with 100 GiB on each device, so that a GiB is a hundredth."""
    return situation(**{"gpu": "H200 SXM 141 GB", "free_bytes": 100 * GIB, **values})


def gib_price(weights: Mapping[str, int]) -> Callable[[FinetunePlan], Priced]:
    """Return a price in GiB: a method's weights, 1 for each 1,024 tokens at once, or 4 where activations are kept.

    Weights are divided under FSDP; an optimizer that is not paged takes 1, and each 16 of rank 1.
    """

    def price(plan: FinetunePlan) -> Priced:
        held = weights[plan.method] / (plan.num_gpus if plan.sharding == "fsdp" else 1)
        held = held / 2 if plan.offload == "all" else held
        tokens = plan.per_device_train_batch_size * plan.max_length / 1024
        states = (0 if plan.optim.startswith("paged") else 1) + plan.r / 16
        return Priced(round((held + tokens * (1 if plan.gradient_checkpointing else 4) + states) * GIB))

    return price
