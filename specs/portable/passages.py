"""Questions whose answers stand in a text: their tokens in overlapping parts, the best answer, and how right it is."""

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def passage_parts(
    question: str, context: str, answers: Sequence[tuple[int, str]], tokenizer: Any, max_length: int
) -> Iterator[dict[str, Any]]:
    """Yield the parts in which a model reads a question with its context, and where the first answer stands in each.

    Parts overlap by a third of ``max_length``, as BERT's 384 tokens by 128; one without the answer says so by its first
    token. ``starts`` and ``ends`` are the places in the context that each token has there, -1 for all other tokens.

    Raises:
        ValueError: If the question leaves too little room for the context.
    """
    asked = len(tokenizer(question, add_special_tokens=False)["input_ids"])
    room = max_length - asked - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 2:
        raise ValueError(f"its question leaves no room for the context within max_length ({max_length} tokens)")
    encoded = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=max_length,
        stride=min(max_length // 3, room // 2),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    for part, offsets in enumerate(encoded["offset_mapping"]):
        inside = [
            side == 1 and last > first for side, (first, last) in zip(encoded.sequence_ids(part), offsets, strict=True)
        ]
        starts = [first if own else -1 for own, (first, _) in zip(inside, offsets, strict=True)]
        ends = [last if own else -1 for own, (_, last) in zip(inside, offsets, strict=True)]
        yield {
            **{name: encoded[name][part] for name in ("input_ids", "token_type_ids") if name in encoded},
            **answer_tokens(starts, ends, answers[0] if answers else (0, "")),
            "starts": starts,
            "ends": ends,
        }


def answer_tokens(starts: Sequence[int], ends: Sequence[int], answer: tuple[int, str]) -> Mapping[str, int]:
    """Return the first and the last token of an answer; the first token of all where this part has not all of it."""
    first, last = answer[0], answer[0] + len(answer[1])
    own = [
        place
        for place, (start, end) in enumerate(zip(starts, ends, strict=True))
        if start < last and end > first and end > start
    ]
    whole = bool(own) and starts[own[0]] <= first and ends[own[-1]] >= last
    return {"start_positions": own[0] if whole else 0, "end_positions": own[-1] if whole else 0}


def best_answer(
    parts: Sequence[tuple[Sequence[float], Sequence[float], Sequence[int], Sequence[int]]], context: str
) -> str:
    """Return the likeliest answer over all parts of a context.

    Args:
        parts: For each part, how likely each token is the first and the last one, and its places in the context.
        context: The text that the answer is cut out of.

    The 20 likeliest ends are tried with each other, and an answer has at most 30 tokens: transformers' own example,
    run_qa.py, ``n_best_size`` and ``max_answer_length``.
    """
    best, found = float("-inf"), ""
    for first_scores, last_scores, starts, ends in parts:
        tokens = [place for place, start in enumerate(starts) if start >= 0]
        firsts = sorted(tokens, key=lambda place: -first_scores[place])[:20]
        lasts = sorted(tokens, key=lambda place: -last_scores[place])[:20]
        for first, last in ((first, last) for first in firsts for last in lasts if first <= last < first + 30):
            if first_scores[first] + last_scores[last] > best:
                best, found = first_scores[first] + last_scores[last], context[starts[first] : ends[last]]
    return found.strip()


def plain_words(answer: str) -> list[str]:
    """Return the words of an answer as SQuAD's evaluation compares them: without case, punctuation and articles."""
    kept = "".join(sign for sign in answer.lower() if sign not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def answer_scores(right: Sequence[Sequence[str]], found: Sequence[str]) -> Mapping[str, float]:
    """Return the share of answers that are right word for word, and F1 of their words, as SQuAD's evaluation does.

    Of several right answers the nearest counts. Source: Rajpurkar et al. 2016, section 6.1; evaluate-v1.1.py.
    """
    exact, shared = 0.0, 0.0
    for answers, said in zip(right, found, strict=True):
        words = plain_words(said)
        exact += any(plain_words(answer) == words for answer in answers)
        shared += max((word_f1(plain_words(answer), words) for answer in answers), default=0.0)
    return {"exact_match": exact / max(1, len(found)), "f1": shared / max(1, len(found))}


def word_f1(right: Sequence[str], found: Sequence[str]) -> float:
    """Return F1 of the words of two answers."""
    same = sum((Counter(right) & Counter(found)).values())
    return 2 * same / max(1, len(right) + len(found))
