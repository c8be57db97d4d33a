"""Texts that belong together as sentence-transformers trains them: batches, losses, and how well texts are found."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch import Generator, nn
from transformers import PreTrainedTokenizerBase

from specs import FinetunePlan
from specs.portable.batches import batch_sizes, distinct_batches
from trainer.model.embedding import loss_of
from trainer.worker.learning.batches import Row

COLUMNS = tuple(f"text{number}" for number in itertools.islice(itertools.count(), 66))
"""What the texts of a row are called in a batch: the anchor, its match, and the wrong ones."""

_PLACES = 10
"""Places beyond which a text that is found counts as not found: MRR@10, as in MS MARCO."""


class Batches:
    """Makes a batch of rows: for each of their texts padded tokens, and the scores where the rows have any."""

    valid_label_columns = ("label",)

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take the tokenizer that pads."""
        self._tokenizer = tokenizer

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return the tensors of a batch, all wrong and right texts as long as the longest of them."""
        batch: dict[str, torch.Tensor] = {}
        texts = list(zip(*(row["texts"] for row in rows), strict=True))
        anchors, others = texts[0], list(itertools.chain(*texts[1:]))
        batch |= _named(COLUMNS[0], self._padded(anchors))
        padded = self._padded(others)
        for number, column in enumerate(COLUMNS[1 : len(texts)]):
            part = slice(number * len(rows), (number + 1) * len(rows))
            batch |= _named(column, {name: values[part] for name, values in padded.items()})
        if rows[0]["score"] is not None:
            batch["label"] = torch.tensor([row["score"] for row in rows], dtype=torch.float32)
        return batch

    def _padded(self, texts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        return dict(self._tokenizer.pad([{"input_ids": text} for text in texts], return_tensors="pt"))


def _named(column: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{column}_{name}": values for name, values in tensors.items()}


class Distinct(DefaultBatchSampler):
    """Batches in which no text occurs twice, in an order that depends only on the seed and the epoch.

    A text that is right for one row would otherwise be taken for a wrong one of another.
    """

    def __init__(self, dataset: Dataset, batch_size: int, drop_last: bool, seed: int = 0, **_: Any) -> None:  # noqa: FBT001 - sentence-transformers' signature
        """Remember which texts each row has, as numbers."""
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last, seed=seed)
        self._texts = [frozenset(hash(tuple(text)) for text in texts) for texts in dataset["texts"]]
        self._seed = seed
        self._sizes = batch_sizes(len(self._texts), batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the rows of each batch."""
        generator = Generator().manual_seed(self._seed + self.epoch)
        order = torch.randperm(len(self._texts), generator=generator).tolist()
        yield from distinct_batches(self._texts, order, self._sizes)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._sizes)


def values(model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, plan: FinetunePlan, **_: Any) -> dict[str, Any]:
    """Return what the trainer needs: the loss, and what makes batches."""
    return {"loss": loss_of(plan, model), "data_collator": Batches(tokenizer)}


def measures(model: SentenceTransformer, collate: Batches, rows: Dataset, *, batch_size: int) -> dict[str, float]:
    """Return how often the right text is the nearest, or how far the order of likeness is that of the scores."""
    columns = vectors(model, collate, rows, batch_size=batch_size)
    scores = rows["score"][:]
    if scores[0] is not None:
        alike = (columns[0] * columns[1]).sum(-1).numpy()
        # Held-out scores that are all the same have no order.
        return {"spearman": float(spearmanr(alike, scores).statistic)} if len({*scores}) > 1 else {}
    found = places(columns, [[tuple(text) for text in texts] for texts in rows["texts"]])
    return {"accuracy": float((found == 1).float().mean()), "mrr": float(reciprocal(found).mean())}


def vectors(model: SentenceTransformer, collate: Batches, rows: Any, *, batch_size: int) -> list[torch.Tensor]:
    """Return the vectors of the texts of all rows, one tensor (n, d) for each place of a text in its row."""
    found: list[list[torch.Tensor]] = []
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            part = [rows[number] for number in range(start, min(start + batch_size, len(rows)))]
            batch = collate(part)
            found.append([_embedded(model, batch, column) for column in COLUMNS[: len(part[0]["texts"])]])
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def _embedded(model: SentenceTransformer, batch: Mapping[str, torch.Tensor], column: str) -> torch.Tensor:
    """Return the vectors of one column of a batch, each of length 1."""
    features = {
        name.removeprefix(f"{column}_"): values.to(model.device)
        for name, values in batch.items()
        if name.startswith(f"{column}_")
    }
    return torch.nn.functional.normalize(model(features)["sentence_embedding"].float(), dim=-1).cpu()


def places(columns: Sequence[torch.Tensor], texts: Sequence[Sequence[tuple[int, ...]]]) -> torch.Tensor:
    """Return at which place each right text is found among all right and wrong ones, from 1; each text counts once."""
    flat = [text for column in range(1, len(texts[0])) for text in (row[column] for row in texts)]
    first = {text: number for number, text in reversed(list(enumerate(flat)))}
    kept = sorted(first.values())
    place = {text: kept.index(number) for text, number in first.items()}
    alike = columns[0] @ torch.cat(list(columns[1:]))[kept].T
    right = torch.tensor([place[row[1]] for row in texts])
    return (alike > alike.gather(1, right[:, None])).sum(1) + 1


def reciprocal(found: torch.Tensor) -> torch.Tensor:
    """Return one over each place, and 0 beyond the tenth."""
    return torch.where(found <= _PLACES, 1.0 / found, 0.0)
