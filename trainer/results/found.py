"""What a model that writes no text finds in one: its class, entities, an answer, how alike two are; told in words."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from threading import Event
from typing import Any

import torch

from specs import RunError
from specs.portable.passages import best_answer, passage_parts
from specs.portable.tags import tagged_tokens
from trainer.data.forms import related, tagged
from trainer.data.forms.classes import parts, tokens

_WITHOUT_LIMIT = 2**20
"""Tokens at once where neither model nor tokenizer names a limit: no tokenizer truncates to transformers' 10^30."""

SHOWN = 5
"""Classes that are named in a sentence; the others are less likely."""


def found(task_type: str, model: Any, tokenizer: Any, text: str, *, number_of_texts: int = 1) -> str:
    """Return in words what a model finds in a text.

    Args:
        task_type: What it was trained for, one of ``specs.TASK_TYPES`` that writes no text.
        model: In evaluation mode; its configuration names the outputs.
        tokenizer: The model's.
        text: One text, or two with an empty line between them.
        number_of_texts: As many as a row of the data has, 1 or 2.
    """
    with torch.no_grad():
        return _TASKS[task_type](model, tokenizer, parts(text, number_of_texts))


def found_in_each(
    task_type: str, model: Any, tokenizer: Any, texts: Sequence[str], *, until: Event, number_of_texts: int = 1
) -> list[str]:
    """Return what a model finds in each text; once ``until`` is set, nothing in the remaining ones."""
    was_training = model.training
    model.eval()
    try:
        return [
            "" if until.is_set() else found(task_type, model, tokenizer, text, number_of_texts=number_of_texts)
            for text in texts
        ]
    finally:
        model.train(was_training)


def probabilities(model: Any, tokenizer: Any, texts: Sequence[str]) -> Mapping[str, float]:
    """Return the probability of each class of one text or of two together, the likeliest first."""
    read = tokens(texts, tokenizer, max_length=_longest(model, tokenizer))
    with torch.no_grad():
        logits = model(**_batch(model, read)).logits[0].float()
    names = model.config.id2label
    shares = {names[number]: float(share) for number, share in enumerate(logits.softmax(-1))}
    return dict(sorted(shares.items(), key=lambda entry: -entry[1]))


def told(shares: Mapping[str, float]) -> str:
    """Return the likeliest classes in words, such as ``positive 97.1%, negative 2.9%``."""
    return ", ".join(f"{name} {share:.1%}" for name, share in list(shares.items())[:SHOWN])


def _class(model: Any, tokenizer: Any, texts: Sequence[str]) -> str:
    return told(probabilities(model, tokenizer, texts))


def _entities(model: Any, tokenizer: Any, texts: Sequence[str]) -> str:
    """Return the entities of a text whose words stand between spaces."""
    words = " ".join(texts).split()
    numbered = [str(number) for number in range(len(words))]  # which word a token is of, in place of its tag
    read = tagged_tokens(words, numbered, tokenizer, _longest(model, tokenizer))
    owners = read.pop("tags")
    best = model(**_batch(model, read)).logits[0].argmax(-1).tolist()
    tags = {int(word): model.config.id2label[tag] for word, tag in zip(owners, best, strict=True) if word}
    return tagged.told(words, [tags.get(number, "O") for number in range(len(words))])


def _answer(model: Any, tokenizer: Any, texts: Sequence[str]) -> str:
    """Return the answer to a question that stands in a text."""
    if len(texts) != 2 or not all(text.strip() for text in texts):
        rule = "must be a question, an empty line, and the text that holds the answer"
        raise RunError("text", rule, None, "Write both")
    question, context = texts
    scores = []
    for part in passage_parts(question, context, (), tokenizer, _longest(model, tokenizer)):
        read: dict[str, Any] = {name: part[name] for name in ("input_ids", "token_type_ids") if name in part}
        found = model(**_batch(model, read))
        sides = (found.start_logits[0].float().tolist(), found.end_logits[0].float().tolist())
        scores.append((*sides, part["starts"], part["ends"]))
    return best_answer(scores, context)


def _likeness(model: Any, tokenizer: Any, texts: Sequence[str]) -> str:
    """Return how alike two texts are to an embedding model: the cosine of their vectors."""
    if len(texts) != 2 or not all(text.strip() for text in texts):
        rule = "must be two texts with an empty line between them"
        raise RunError("text", rule, None, "Write both")
    read = related.prompted(related.Related(texts[0], texts[1]), model.prompts)
    longest = _longest(model, tokenizer)
    tokens = [tokenizer(text, truncation=True, max_length=longest, return_tensors="pt") for text in read]
    one, other = (model({**one.to(model.device)})["sentence_embedding"].float() for one in tokens)
    return f"{float(torch.nn.functional.cosine_similarity(one, other)[0]):.2f}"


_TASKS: Mapping[str, Callable[[Any, Any, Sequence[str]], str]] = {
    "SEQ_CLS": _class,
    "TOKEN_CLS": _entities,
    "QUESTION_ANS": _answer,
    "FEATURE_EXTRACTION": _likeness,
}


def adapter_off(model: Any) -> AbstractContextManager[Any]:
    """Return a context in which a model's adapter is off, also within sentence-transformers' model around it."""
    inner = model if hasattr(model, "disable_adapter") else model[0].model
    off: AbstractContextManager[Any] = inner.disable_adapter()
    return off


def _batch(model: Any, read: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([values], device=model.device) for name, values in read.items()}


def _longest(model: Any, tokenizer: Any) -> int:
    """Return the most tokens that a model reads at once."""
    limit = getattr(model.config, "max_position_embeddings", None) or _WITHOUT_LIMIT
    return int(min(limit, tokenizer.model_max_length, _WITHOUT_LIMIT))
