"""Gives prompts to a model and returns its answers."""

from collections.abc import Sequence
from threading import Event
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from trainer.data.forms.messages import Turn
from trainer.data.rendering import Renderer, asked_plainly

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
    asked = prompt_tokens(model, tokenizer, (Turn(role="user", content=prompt),)).to(model.device)
    said = generated(model, tokenizer, asked, until=until, max_new_tokens=MAX_NEW_TOKENS)
    answer: str = tokenizer.decode(said, skip_special_tokens=True).strip()
    return answer if is_whole(said, end_tokens(model, tokenizer)) else f"{answer} ...".lstrip()


def is_whole(said: torch.Tensor, ends: Sequence[int]) -> bool:
    """Return whether an answer ended by itself; otherwise it was cut, for its length or since nobody waited."""
    return len(said) > 0 and int(said[-1]) in ends


def prompt_tokens(model: Any, tokenizer: Any, turns: Sequence[Turn]) -> Any:
    """Return a conversation as the model reads it, up to where it is to answer: tokens and mask of (1, s)."""
    if model.config.is_encoder_decoder:
        return tokenizer(asked_plainly(turns), return_tensors="pt", return_token_type_ids=False)
    return tokenizer(Renderer(tokenizer).asked(turns), add_special_tokens=False, return_tensors="pt")


def generated(model: Any, tokenizer: Any, asked: Any, *, until: Event, **options: Any) -> torch.Tensor:
    """Return the tokens that a model generates, without sampling unless ``options`` for ``generate`` ask for it."""
    tokens: torch.Tensor = generated_each(model, tokenizer, asked, until=until, **options)[0]
    return tokens


def generated_each(model: Any, tokenizer: Any, asked: Any, *, until: Event, **options: Any) -> torch.Tensor:
    """Return for each of several texts the tokens that a model generates after it, as ``generated`` does for one.

    An answer ends where the model has no more positions.

    Args:
        model: In evaluation mode.
        tokenizer: The model's.
        asked: ``input_ids`` and ``attention_mask`` of (b, s).
        until: Ends all answers once it is set.
        options: For ``generate``, with ``max_new_tokens``.
    """
    # A decoder repeats the question; one with an encoder begins with a token of its own.
    beside = 1 if model.config.is_encoder_decoder else asked["input_ids"].shape[1]
    left = positions_left(model, beside)
    if left is not None:
        if left < 1:
            return asked["input_ids"][:, :0]
        options["max_new_tokens"] = min(options["max_new_tokens"], left)
    with torch.no_grad():
        said: torch.Tensor = model.generate(
            **asked,
            **{"do_sample": False, **options},
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=end_tokens(model, tokenizer),
            stopping_criteria=StoppingCriteriaList([_Until(until)]),
        )
    return said[:, beside:]


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens at which an answer ends: those of the model's ``generation_config`` and the tokenizer's own."""
    said = getattr(model.generation_config, "eos_token_id", None)
    listed = said if isinstance(said, Sequence) else [said]
    return list(dict.fromkeys(int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None))


def positions_left(model: Any, num_tokens: int) -> int | None:
    """Return how many tokens a model has positions for after so many; None for one without a table of them, as T5."""
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    learned = (getattr(config, "num_virtual_tokens", None) for config in getattr(model, "peft_config", {}).values())
    return None if known is None else int(known) - num_tokens - max((int(one or 0) for one in learned), default=0)
