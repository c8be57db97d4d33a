"""Answers compared or marked: pairs of a better and a worse one in every form that people publish, and single marks.

Sources:
    TRL, dataset formats (explicit and implicit prompt); Anthropic HH-RLHF, README; LLaMA-Factory, data/README.md; Intel
    orca_dpo_pairs; PKU-SafeRLHF; Stanford SHP.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.data.forms import messages
from trainer.data.forms.messages import Turn
from trainer.data.row import UnreadableError

_SIDES = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]*")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}

_GOOD = frozenset({"true", "1", "1.0", "yes", "good", "desirable", "positive", "thumbs_up", "up", "like", "accepted"})
_BAD = frozenset(
    {"false", "0", "0.0", "-1", "no", "bad", "undesirable", "negative", "thumbs_down", "down", "dislike", "rejected"}
)


def is_good(value: Any, name: str) -> bool:
    """Return whether a mark says that an answer is good.

    Raises:
        UnreadableError: If it says neither good nor bad.
    """
    word = str(value).strip().casefold()
    if word in _GOOD or word in _BAD:
        return word in _GOOD
    raise UnreadableError(f"{name} must be true or false, got {str(value)[:40]!r}")


def is_marked_bad(value: Any) -> bool:
    """Return whether a value says that an answer is bad."""
    return str(value).strip().casefold() in _BAD


def pair(
    row: Mapping[str, Any], asked: tuple[Turn, ...]
) -> tuple[tuple[Turn, ...], tuple[Turn, ...], tuple[Turn, ...]]:
    """Return what was asked, the better answer and the worse one.

    Args:
        row: The row, with its columns chosen and rejected.
        asked: What its other columns ask; empty where the two answers begin with the question.

    Raises:
        UnreadableError: If the row holds no two answers to one question.
    """
    _require_order(row)
    chosen, rejected = _said(row["chosen"], "chosen"), _said(row["rejected"], "rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if asked:
            return asked, _answer(chosen), _answer(rejected)
        return _split_texts(chosen, rejected)
    better, worse = (_answer(side) if isinstance(side, str) else side for side in (chosen, rejected))
    shared = _shared(better, worse)
    return _joined(asked, better[:shared]), better[shared:], worse[shared:]


def _require_order(row: Mapping[str, Any]) -> None:
    """Refuse a pair whose scores say the opposite of its columns."""
    scores = [row.get("score_chosen"), row.get("score_rejected")]
    if any(score in (None, "") for score in scores):
        return
    try:
        better, worse = (float(str(score)) for score in scores)
    except ValueError as error:
        raise UnreadableError("score_chosen and score_rejected must be numbers") from error
    if better < worse:
        raise UnreadableError("score_rejected is higher than score_chosen")
    if better == worse:
        raise UnreadableError("score_chosen and score_rejected are equal: neither answer is better")


def _said(value: Any, name: str) -> str | tuple[Turn, ...]:
    """Return an answer as it stands: text, or turns where it is a message or a list of them."""
    value = messages.parsed(value) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        value = [value]
    if messages.is_messages(value):
        return messages.turns(value)
    words = messages.text(value, name)
    if not words.strip():
        raise UnreadableError(f"{name} is empty")
    return words


def _answer(words: str) -> tuple[Turn, ...]:
    return (Turn(role="assistant", content=words),)


def _shared(left: tuple[Turn, ...], right: tuple[Turn, ...]) -> int:
    """Return how many turns two conversations begin with alike, an answer at the end of one of them left out."""
    most = min(len(left), len(right)) - 1
    return next((index for index in range(most) if _differ(left[index], right[index])), most)


def _differ(left: Turn, right: Turn) -> bool:
    return left != right or left.more != right.more


def _joined(asked: tuple[Turn, ...], shared: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Return the question of a column and of the answers' common beginning, which mostly repeats it."""
    if not shared or not asked:
        return shared or asked
    said = {turn.content.strip() for turn in shared}
    if all(turn.content.strip() in said for turn in asked):
        return shared
    return (*asked, *shared)


def _split_texts(chosen: str, rejected: str) -> tuple[tuple[Turn, ...], tuple[Turn, ...], tuple[Turn, ...]]:
    """Return the common beginning of two texts as the question: by sides as in HH-RLHF, else by words."""
    if is_dialogue(chosen) and is_dialogue(rejected):
        better, worse = dialogue(chosen), dialogue(rejected)
        shared = _shared(better, worse)
        return better[:shared], better[shared:], worse[shared:]
    length = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
    length = min(length or min(len(chosen), len(rejected)), chosen.rfind(" ", 0, max(length, 1)) + 1 or length)
    if not chosen[:length].strip():
        raise UnreadableError("has no question: chosen and rejected share no beginning")
    begun, better_end, worse_end = chosen[:length].rstrip(), chosen[length:], rejected[length:]
    gap = chosen[len(begun) : length]
    return (
        (Turn(role="text", content=begun),),
        (Turn(role="text", content=gap + better_end),),
        (Turn(role="text", content=gap + worse_end),),
    )


def is_dialogue(words: str) -> bool:
    """Return whether a text names its sides as HH-RLHF does."""
    return _SIDES.match(words) is not None


def dialogue(words: str) -> tuple[Turn, ...]:
    """Return the turns of a text in which ``Human:`` and ``Assistant:`` take turns; an empty last one is left out."""
    _, *pieces = _SIDES.split(words)
    said = [
        Turn(role=_HH_ROLES[side], content=content.strip())
        for side, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    return tuple(said[:-1] if said and not said[-1].content else said)


@dataclass(frozen=True, slots=True)
class Scored:
    """Two answers side by side, with the columns that say which is better."""

    answers: tuple[str, str]
    marks: tuple[str, ...]
    second_is_better: Callable[[Mapping[str, Any]], bool]
    source: str


def _by_scores(first: str, second: str) -> Callable[[Mapping[str, Any]], bool]:
    def second_is_better(row: Mapping[str, Any]) -> bool:
        try:
            left, right = float(row[first]), float(row[second])
        except (TypeError, ValueError) as error:
            raise UnreadableError(f"{first} and {second} must be numbers") from error
        if left == right:
            raise UnreadableError(f"{first} and {second} are equal: neither answer is better")
        return right > left

    return second_is_better


def _by_choice(name: str, first: tuple[str, ...], second: tuple[str, ...]) -> Callable[[Mapping[str, Any]], bool]:
    def second_is_better(row: Mapping[str, Any]) -> bool:
        word = str(row[name]).strip().casefold()
        if word not in {*first, *second}:
            raise UnreadableError(f"{name} must name one of two answers, got {word[:40]!r}")
        return word in second

    return second_is_better


SCORED = (
    Scored(
        ("response_0", "response_1"),
        ("better_response_id",),
        _by_choice("better_response_id", ("0",), ("1",)),
        "PKU-SafeRLHF",
    ),
    # SHP: labels is 1 where the first answer was preferred.
    Scored(("human_ref_A", "human_ref_B"), ("labels",), _by_choice("labels", ("1",), ("0",)), "Stanford SHP"),
    *(
        Scored(
            (f"response_{a}", f"response_{b}"),
            (f"score_{a}", f"score_{b}"),
            _by_scores(f"score_{a}", f"score_{b}"),
            "answers with a score each",
        )
        for a, b in (("a", "b"), ("A", "B"), ("0", "1"), ("1", "2"))
    ),
    *(
        Scored(
            ("response_a", "response_b"),
            (name,),
            _by_choice(name, ("a", "response_a", "model_a"), ("b", "response_b", "model_b")),
            "LMSYS Chatbot Arena",
        )
        for name in ("winner", "preference")
    ),
)
"""Known arrangements of two answers and what tells the better one."""


def ranked(row: Mapping[str, Any], scored: Scored) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    """Return the better and the worse of two answers with marks.

    Raises:
        UnreadableError: If an answer is no text, or the marks do not say which is better.
    """
    names = scored.answers[::-1] if scored.second_is_better(row) else scored.answers
    better, worse = (_answer(messages.text(row.get(name), name)) for name in names)
    return better, worse
