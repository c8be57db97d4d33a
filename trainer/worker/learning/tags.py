"""Words with tags as transformers trains them: their labels, and how many entities an evaluation finds."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from specs.portable.tags import entity_scores
from trainer.data.rendering import IGNORED
from trainer.worker.learning.batches import Collator, Row, likeliest, name_outputs


def values(model: nn.Module, tokenizer: PreTrainedTokenizerBase, classes: Sequence[str], **_: Any) -> dict[str, Any]:
    """Name the model's outputs, and return what its trainer needs for them."""
    name_outputs(model, tokenizer, classes)
    numbers = {name: number for number, name in enumerate(classes)}

    def labels(batch: Sequence[Row], length: int) -> dict[str, torch.Tensor]:
        return {
            "labels": torch.tensor([_padded(row["tags"], numbers, length, tokenizer.padding_side) for row in batch])
        }

    def measures(predicted: Any) -> Mapping[str, float]:
        sides = [
            [[classes[tag] for tag, right in zip(*row, strict=True) if right != IGNORED] for row in pairs]
            for pairs in (
                zip(predicted.label_ids.tolist(), predicted.label_ids.tolist(), strict=True),
                zip(predicted.predictions.tolist(), predicted.label_ids.tolist(), strict=True),
            )
        ]
        return entity_scores(*sides)

    return {
        "data_collator": Collator(tokenizer, labels),
        "compute_metrics": measures,
        "preprocess_logits_for_metrics": likeliest,
    }


def _padded(tags: Sequence[str], numbers: Mapping[str, int], length: int, side: str) -> list[int]:
    """Return the number of each token's tag, as long as the tokens are padded; those without one are ignored."""
    own = [numbers.get(tag, IGNORED) for tag in tags]
    more = [IGNORED] * (length - len(own))
    return own + more if side == "right" else more + own
