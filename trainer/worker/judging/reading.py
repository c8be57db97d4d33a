"""What a model makes of one row that it reads: the loss of what is to be learned of it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from trainer.failure import NotFiniteError
from trainer.worker.judging.judge import Row

IGNORED = -100
"""The label of a token that is not learned, as in PyTorch's cross entropy."""
_CHUNK = 256
"""Tokens whose logits are made 32 bits wide at once."""


@torch.no_grad()
def loss_of(model: Any, ids: Sequence[int], labels: Sequence[int]) -> float:
    """Return the loss of a row in nats, summed over what is to be learned of it.

    Raises:
        NotFiniteError: If it is none that can be compared.
    """
    read = torch.tensor([ids], device=model.device)
    right = torch.tensor(labels, device=model.device)
    if model.config.is_encoder_decoder:
        logits = model(input_ids=read, labels=right[None]).logits[0]
    else:
        # Those of a prompt that was learned come first.
        logits, right = model(input_ids=read, use_cache=False).logits[0, -len(ids) :][:-1], right[1:]
    parts = zip(logits.split(_CHUNK), right.split(_CHUNK), strict=True)
    loss = sum(
        float(functional.cross_entropy(some.float(), wanted, ignore_index=IGNORED, reduction="sum"))
        for some, wanted in parts
    )
    require_finite("loss", loss)
    return loss


def require_finite(name: str, value: float) -> None:
    """Refuse a number with which nothing can be compared.

    Raises:
        NotFiniteError: If it is infinite or none.
    """
    if not math.isfinite(value):
        way_out = "Train a new run that computes in bfloat16 or float32"
        raise NotFiniteError(f"{name} of a row", "must be a finite number in both models", value, way_out)


def loss_after(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Return the loss of an answer after a prompt, in nats over its tokens."""
    return loss_of(model, [*prompt, *answer], [*([IGNORED] * len(prompt)), *answer])


def inputs_of(model: Any, row: Row) -> dict[str, torch.Tensor]:
    """Return a row as a model with a head reads it: tensors of (1, s)."""
    names = (name for name in ("input_ids", "token_type_ids") if row.get(name) is not None)
    return {name: torch.tensor([row[name]], device=model.device) for name in names}
