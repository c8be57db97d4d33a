"""Answers that stand in a text as transformers trains them: where they begin and end, and how right they are."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from specs.portable.passages import answer_scores, best_answer
from trainer.worker.learning.batches import Collator, Row, name_outputs


def values(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, held_out: Dataset | None, **_: Any
) -> dict[str, Any]:
    """Return what the trainer needs to learn where answers stand, and to measure them on the held-out rows."""
    name_outputs(model, tokenizer, ())
    left = tokenizer.padding_side == "left"

    def labels(batch: Sequence[Row], length: int) -> dict[str, torch.Tensor]:
        moved = [length - len(row["input_ids"]) if left else 0 for row in batch]
        return {
            name: torch.tensor([row[name] + more for row, more in zip(batch, moved, strict=True)])
            for name in ("start_positions", "end_positions")
        }

    def measures(predicted: Any) -> Mapping[str, float]:
        parts: dict[int, list[Any]] = defaultdict(list)
        right: dict[int, Sequence[str]] = {}
        contexts: dict[int, str] = {}
        for row, *scores in zip(held_out or (), *predicted.predictions, strict=True):
            begin = len(scores[0]) - len(row["starts"]) if left else 0
            sides = (side[begin : begin + len(row["starts"])].tolist() for side in scores)
            parts[row["number"]].append((*sides, row["starts"], row["ends"]))
            right[row["number"]], contexts[row["number"]] = row["answers"], row["context"]
        found = [best_answer(scores, contexts[number]) for number, scores in parts.items()]
        return answer_scores([*right.values()], found)

    return {"data_collator": Collator(tokenizer, labels), "compute_metrics": measures}
