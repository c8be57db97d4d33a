"""Batches of models with a head, and names for their outputs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

Row = Mapping[str, Any]
_READ = ("input_ids", "token_type_ids")


class Collator:
    """Makes a batch of rows: padded tokens, and the labels that a task gives them."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: Callable[[Sequence[Row], int], Mapping[str, torch.Tensor]],
    ) -> None:
        """Take what makes the labels of rows that are padded to a length."""
        self._tokenizer, self._labels = tokenizer, labels

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return the tensors of a batch."""
        names = [name for name in _READ if rows[0].get(name) is not None]
        batch: dict[str, torch.Tensor] = dict(
            self._tokenizer.pad([{name: row[name] for name in names} for row in rows], return_tensors="pt")
        )
        return {**batch, **self._labels(rows, batch["input_ids"].shape[1])}


def name_outputs(model: nn.Module, tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> None:
    """Let a model's configuration say what its outputs stand for, and which token pads.

    A model that reads from left to right decides at the last token that is no padding.
    """
    config: Any = model.config
    if names:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    config.get_text_config().pad_token_id = tokenizer.pad_token_id


def likeliest(logits: torch.Tensor | tuple[torch.Tensor, ...], _labels: torch.Tensor) -> torch.Tensor:
    """Return the number of the likeliest class, of each text or of each token; some models give more than logits."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)
