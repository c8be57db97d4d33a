"""Gives prompts to a model and returns its answers."""

from collections.abc import Sequence
from threading import Event
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from trainer.data.messages import Turn
from trainer.data.rendering import Renderer

MAX_NEW_TOKENS = 64


class _Until(StoppingCriteria):
    """Ends an answer as soon as nobody waits for it."""

    def __init__(self, over: Event) -> None:
        self._over = over

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002 - transformers' signature
        """Return for each sequence whether it ends here."""
        return torch.full((input_ids.shape[0],), self._over.is_set(), device=input_ids.device)


def answered(model: Any, tokenizer: Any, prompts: Sequence[str], *, until: Event) -> list[str]:
    """Return the model's most likely answer to each prompt, without sampling, so that answers can be compared.

    Once ``until`` is set, the current answer breaks off, and the remaining prompts get empty ones.
    """
    was_training = model.training
    model.eval()
    try:
        return ["" if until.is_set() else _answer(model, tokenizer, prompt, until) for prompt in prompts]
    finally:
        model.train(was_training)


def _answer(model: Any, tokenizer: Any, prompt: str, until: Event) -> str:
    asked = prompt_tokens(tokenizer, (Turn(role="user", content=prompt),)).to(model.device)
    said = generated(model, tokenizer, asked, until=until, max_new_tokens=MAX_NEW_TOKENS)
    answer: str = tokenizer.decode(said, skip_special_tokens=True)
    return answer.strip()


def prompt_tokens(tokenizer: Any, turns: Sequence[Turn]) -> Any:
    """Return a conversation as the model reads it, up to where it is to answer: tokens and mask of (1, s)."""
    return tokenizer(Renderer(tokenizer).asked(turns), add_special_tokens=False, return_tensors="pt")


def generated(model: Any, tokenizer: Any, asked: Any, *, until: Event, **options: Any) -> torch.Tensor:
    """Return the tokens that a model generates, without sampling unless ``options`` for ``generate`` ask for it."""
    with torch.no_grad():
        said = model.generate(
            **asked,
            **{"do_sample": False, **options},
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=end_tokens(model, tokenizer),
            stopping_criteria=StoppingCriteriaList([_Until(until)]),
        )
    tokens: torch.Tensor = said[0][asked["input_ids"].shape[1] :]
    return tokens


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens at which an answer ends: those of the model's ``generation_config`` and the tokenizer's own."""
    said = getattr(model.generation_config, "eos_token_id", None)
    listed = said if isinstance(said, Sequence) else [said]
    return list(dict.fromkeys(int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None))
