"""Answers of an encoder and a decoder as transformers trains them: batches, and how near what it writes is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase

from specs.portable.targets import rouge
from trainer.worker.learning.batches import Row


def values(_model: nn.Module, tokenizer: PreTrainedTokenizerBase, **_: Any) -> dict[str, Any]:
    """Return what the trainer needs: padded batches of both sides, and ROUGE of what the model writes."""
    padded = DataCollatorForSeq2Seq(tokenizer)

    def batch(rows: Sequence[Row]) -> Any:
        return padded([{name: row[name] for name in ("input_ids", "labels")} for row in rows])

    def measures(predicted: Any) -> Mapping[str, float]:
        sides = (
            tokenizer.batch_decode(np.where(side < 0, tokenizer.pad_token_id, side), skip_special_tokens=True)
            for side in (predicted.label_ids, predicted.predictions)
        )
        return rouge(*sides)

    return {"data_collator": batch, "compute_metrics": measures}
