"""Batches of texts that are compared with each other, in which no text occurs twice where that is possible."""

from collections.abc import Sequence


def batch_sizes(rows: int, batch_size: int) -> list[int]:
    """Return how many rows each batch has; none has a single one, which there would be nothing to compare with."""
    whole, rest = divmod(rows, batch_size)
    sizes = [batch_size] * whole + ([rest] if rest else [])
    if rest == 1 and whole and batch_size > 2:
        sizes[-2:] = [batch_size - 1, 2]
    return sizes


def distinct_batches(texts: Sequence[frozenset[int]], order: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """Return the rows of each batch: each row in the first one that has none of its texts, or else in any.

    Args:
        texts: The texts of each row, as numbers.
        order: All rows, in the order in which they look for a batch.
        sizes: How many rows each batch has.
    """
    batches: list[list[int]] = [[] for _ in sizes]
    seen: list[set[int]] = [set() for _ in sizes]
    later: list[int] = []
    first = 0
    for row in order:
        while first < len(sizes) and len(batches[first]) == sizes[first]:
            first += 1
        fitting = (
            number
            for number in range(first, len(sizes))
            if len(batches[number]) < sizes[number] and seen[number].isdisjoint(texts[row])
        )
        chosen = next(fitting, None)
        if chosen is None:
            later.append(row)
        else:
            batches[chosen].append(row)
            seen[chosen] |= texts[row]
    for batch, size in zip(batches, sizes, strict=True):
        while len(batch) < size:
            batch.append(later.pop())
    return batches
