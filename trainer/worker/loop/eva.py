"""EVA: LoRA's first matrices take the directions in which the inputs of their layers vary most on the data."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from peft import initialize_lora_eva_weights
from torch import nn

BATCHES = 64
"""Batches of the data that are read, again and again until the directions no longer change."""


def initialize(trainer: Any) -> None:
    """Let the adapter of a trainer's model begin as its first rows say; the random numbers of the run stay as they are.

    Source:
        Paischer et al. 2024, EVA, https://arxiv.org/abs/2410.07170; PEFT 0.21, ``initialize_lora_eva_weights``.
    """
    devices = [trainer.args.device] if trainer.args.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.autocast(trainer.args.device.type, enabled=False):
        batches = list(itertools.islice(trainer.get_train_dataloader(), BATCHES))
        initialize_lora_eva_weights(
            trainer.model, dataloader=batches, forward_fn=_without_logits, show_progress_bar=False
        )


@torch.no_grad()
def _without_logits(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Any:
    """Run the layers alone: logits of all positions would take more memory than the step of chunked losses."""
    read = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    return model(**read, logits_to_keep=1)
