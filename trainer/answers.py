"""Asks a model prompts and returns what it says."""

from collections.abc import Sequence
from typing import Any

import torch

from trainer.dataset import Turn
from trainer.rendering import chat_text

MAX_NEW_TOKENS = 64


def answered(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Return the model's most likely answer to each prompt, without sampling, so that answers can be compared."""
    was_training = model.training
    model.eval()
    try:
        return [_answer(model, tokenizer, prompt) for prompt in prompts]
    finally:
        model.train(was_training)


def _answer(model: Any, tokenizer: Any, prompt: str) -> str:
    text = chat_text((Turn(role="user", content=prompt),), tokenizer, ask=True)
    asked = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)
    with torch.no_grad():
        said = model.generate(
            **asked,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    answer: str = tokenizer.decode(said[0][asked["input_ids"].shape[1] :], skip_special_tokens=True)
    return answer.strip()
