"""Words with tags: their tokens, the entities that tags mark, and how many entities were found."""

from collections.abc import Mapping, Sequence
from typing import Any


def tagged_tokens(
    words: Sequence[str], tags: Sequence[str], tokenizer: Any, max_length: int
) -> dict[str, Sequence[Any]]:
    """Return the tokens of words joined by spaces, and for each token a tag: that of the word which begins there.

    All other tokens, special ones among them, have the empty tag and are not learned, as transformers' guide does it.
    The text is joined since tokenizers of bytes read a word in a text otherwise than alone.
    """
    encoded = tokenizer(
        " ".join(words),
        truncation=True,
        max_length=max_length,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    owner: dict[int, int] = {}
    position = 0
    for number, word in enumerate(words):
        owner |= dict.fromkeys(range(position, position + len(word)), number)
        position += len(word) + 1
    found, seen = [], set()
    for first, last in encoded["offset_mapping"]:
        # A token may begin with the space before its word, but ends within it.
        place = owner.get(last - 1) if last > first else None
        found.append("" if place is None or place in seen else tags[place])
        seen |= {place}
    return {**{name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}, "tags": found}


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return each entity that the tags of a row mark: its kind, its first and its last word.

    Tags are BIO, BIOES or BILOU as CoNLL's script reads them; neighbours under the same tag without such a prefix are
    one entity. O and 0 mark nothing.
    """
    found: list[tuple[str, int, int]] = []
    begun, kind, ended = -1, "", True
    for number, tag in enumerate([*tags, "O"]):
        prefix, name = (tag[0], tag[2:]) if tag[1:2] in {"-", "_"} and tag[0] in "BIESLU" else ("I", tag)
        outside = tag in {"O", "0", ""}
        starts = not outside and (prefix in "BSU" or name != kind or ended)
        if begun >= 0 and (outside or starts):
            found.append((kind, begun, number - 1))
            begun = -1
        if starts:
            begun = number
        kind, ended = ("", True) if outside else (name, prefix in "ESLU")
    return found


def entity_scores(right: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> Mapping[str, float]:
    """Return precision, recall and F1 of whole entities over all rows, and the share of words with the right tag."""
    pairs = list(zip(right, found, strict=True))
    wanted, given = (
        [(row, *one) for row, tags in enumerate(side) for one in entities(tags)] for side in (right, found)
    )
    hits = len({*wanted} & {*given})
    words = sum(len(tags) for tags in right)
    same = sum(one == other for row, tags in pairs for one, other in zip(row, tags, strict=True))
    return {
        "f1": 2 * hits / max(1, len(wanted) + len(given)),
        "precision": hits / max(1, len(given)),
        "recall": hits / max(1, len(wanted)),
        "accuracy": same / max(1, words),
    }
