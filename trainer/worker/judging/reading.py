"""What a model makes of one row that it reads: the loss of what is to be learned of it."""

import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from torch.nn import functional
from trl.trainer.utils import add_fused_lm_head

from specs import paths
from trainer.failure import NotFiniteError
from trainer.worker.judging.judge import Row

IGNORED = -100
"""The label of a token that is not learned, as in PyTorch's cross entropy."""
_AT_ONCE = 2**24
"""Logits that are made at once in any case: 64 MiB in 32 bit. TRL's chunks are slower on a CPU, but have a bound."""
_CHUNK = 256
"""Tokens whose logits are made 32 bits wide at once."""

Learned = tuple[Sequence[int], Sequence[int]]
"""The tokens of a row, and its labels."""


def losses(model: Any, rows: Iterable[Learned], *, chunked: bool) -> Iterator[float]:
    """Yield the loss of each row in nats, summed over what is to be learned of it.

    Logits are made only where something is to be learned: no row takes more memory than it took in training.

    Args:
        model: A model that writes text.
        rows: Tokens and labels.
        chunked: Whether training made no logits of all positions, but TRL's chunks of them.

    Raises:
        NotFiniteError: If a loss is none that can be compared.
    """
    whole = model.get_base_model() if isinstance(model, PeftModel) else model
    with _fused_head(whole) if chunked else nullcontext():
        for ids, labels in rows:
            loss = _loss(model, whole, ids, labels, chunked=chunked)
            require_finite("loss", loss)
            yield loss


def loss_of(model: Any, ids: Sequence[int], labels: Sequence[int], *, chunked: bool = True) -> float:
    """Return the loss of a single row, as ``losses`` does."""
    return next(losses(model, [(ids, labels)], chunked=chunked))


@contextmanager
def _fused_head(model: Any) -> Iterator[None]:
    """Let a model give the log-probabilities of labels instead of logits when asked to, as it does while it trains."""
    before = vars(model).get("forward")
    add_fused_lm_head(model)
    try:
        yield
    finally:
        del model.forward
        if before is not None:
            model.forward = before


@torch.no_grad()
def _loss(model: Any, whole: Any, ids: Sequence[int], labels: Sequence[int], *, chunked: bool) -> float:
    read = torch.tensor([ids], device=model.device)
    right = torch.tensor([labels], device=model.device)
    if model.config.is_encoder_decoder:
        return _summed(model(input_ids=read, labels=right).logits[0], right[0])
    places = [place for place in range(1, len(labels)) if labels[place] != IGNORED]
    if not places:
        return 0.0
    if chunked and len(places) * model.config.get_text_config().vocab_size > _AT_ONCE:
        return -float(model(input_ids=read, labels=right, fused_lm_head=True).log_probs.sum())
    # Counted from the end, since the tokens of a prompt that was learned come first.
    before = torch.tensor(places, device=model.device) - 1 - len(ids)
    if "logits_to_keep" in inspect.signature(type(whole).forward).parameters:
        logits = model(input_ids=read, use_cache=False, logits_to_keep=before).logits[0]
    else:
        logits = model(input_ids=read, use_cache=False).logits[0][before]
    return _summed(logits, right[0, places])


def _summed(logits: torch.Tensor, right: torch.Tensor) -> float:
    """Return the loss of tokens (t) whose logits are of (t, v)."""
    parts = zip(logits.split(_CHUNK), right.split(_CHUNK), strict=True)
    return sum(
        float(functional.cross_entropy(some.float(), wanted, ignore_index=IGNORED, reduction="sum"))
        for some, wanted in parts
    )


def require_finite(name: str, value: float) -> None:
    """Refuse a number with which nothing can be compared.

    Raises:
        NotFiniteError: If it is infinite or none.
    """
    if not math.isfinite(value):
        way_out = "Train a new run that computes in bfloat16 or float32"
        raise NotFiniteError(f"{name} of a row", "must be a finite number in both models", value, way_out)


def general_passages() -> Sequence[str]:
    """Return the general text, passage by passage."""
    return paths.general_text().read_text(encoding="utf-8").strip().split("\n\n")


def after(prompt: Sequence[int], answer: Sequence[int]) -> Learned:
    """Return an answer after a prompt, of which only the answer is to be learned."""
    return [*prompt, *answer], [*([IGNORED] * len(prompt)), *answer]


def inputs_of(model: Any, row: Row) -> dict[str, torch.Tensor]:
    """Return a row as a model with a head reads it: tensors of (1, s)."""
    names = (name for name in ("input_ids", "token_type_ids") if row.get(name) is not None)
    return {name: torch.tensor([row[name]], device=model.device) for name in names}
