"""Texts with a class as transformers trains them: their labels, and what an evaluation measures besides the loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from transformers import PreTrainedTokenizerBase

from trainer.worker.learning.batches import Collator, likeliest, name_outputs


def values(model: nn.Module, tokenizer: PreTrainedTokenizerBase, classes: Sequence[str], **_: Any) -> dict[str, Any]:
    """Name the model's outputs, and return what its trainer needs for them."""
    name_outputs(model, tokenizer, classes)
    numbers = {name: number for number, name in enumerate(classes)}
    return {
        "data_collator": Collator(
            tokenizer, lambda batch, _: {"labels": torch.tensor([numbers[row["label"]] for row in batch])}
        ),
        "compute_metrics": measures,
        "preprocess_logits_for_metrics": likeliest,
    }


def measures(predicted: Any) -> dict[str, float]:
    """Return the share of texts whose class was found, and F1, the mean over all classes.

    The mean counts each class alike, so that a rare one that is never found shows.
    """
    found, right = np.asarray(predicted.predictions), np.asarray(predicted.label_ids)
    return {
        "accuracy": float(accuracy_score(right, found)),
        "f1": float(f1_score(right, found, average="macro", zero_division=0)),
    }
