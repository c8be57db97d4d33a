"""Answers that an encoder and a decoder write: tokens of both sides, and how near an answer is to the right one."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def sides_tokens(asked: str, answer: str, tokenizer: Any, max_length: int) -> dict[str, Sequence[int]]:
    """Return the tokens that the encoder reads and those that the decoder writes, each cut to a length."""
    read = tokenizer(asked, truncation=True, max_length=max_length, return_attention_mask=False)
    written = tokenizer(text_target=answer, truncation=True, max_length=max_length, return_attention_mask=False)
    return {"input_ids": read["input_ids"], "labels": written["input_ids"]}


def rouge(right: Sequence[str], found: Sequence[str]) -> Mapping[str, float]:
    """Return ROUGE-1, ROUGE-2 and ROUGE-L: F1 of words, of pairs of words, and of the longest common row of words.

    As rouge_score without stemming computes them, but with the letters of every language.

    Source:
        Lin 2004, ROUGE, https://aclanthology.org/W04-1013; rouge_score 0.1.2, rouge_scorer.py.
    """
    sums = {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}
    for answer, said in zip(right, found, strict=True):
        words, others = (re.findall(r"[^\W_]+", text.lower()) for text in (answer, said))
        for name, size in (("rouge1", 1), ("rouge2", 2)):
            sums[name] += overlap(*([*zip(*(side[n:] for n in range(size)), strict=False)] for side in (words, others)))
        total = len(words) + len(others)
        sums["rougeL"] += 2 * longest_common(words, others) / total if total else 0.0
    return {name: value / max(1, len(found)) for name, value in sums.items()}


def overlap(right: Sequence[Any], found: Sequence[Any]) -> float:
    """Return F1 of what two rows have in common."""
    same = sum((Counter(right) & Counter(found)).values())
    return 2 * same / max(1, len(right) + len(found))


def longest_common(right: Sequence[str], found: Sequence[str]) -> int:
    """Return the length of the longest row of words that both have in this order."""
    before = [0] * (len(found) + 1)
    for word in right:
        now = [0]
        for place, other in enumerate(found):
            now.append(before[place] + 1 if word == other else max(before[place + 1], now[-1]))
        before = now
    return before[-1]
