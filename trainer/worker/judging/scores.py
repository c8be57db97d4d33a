"""How near written answers are to those of the data: row by row, or over all rows as translations are scored."""

from collections.abc import Callable, Iterator, Sequence

from sacrebleu.metrics.bleu import BLEU, MAX_NGRAM_ORDER
from sacrebleu.metrics.chrf import CHRF

from specs.portable.passages import plain_words, word_f1
from specs.portable.targets import rouge
from trainer.results import judgement
from trainer.results.judgement import Compared

_PERCENT = 100.0
"""sacrebleu's scores go from 0 to 100."""


def compared(
    right: Sequence[str], base: Sequence[str], tuned: Sequence[str], *, translates: bool
) -> Iterator[Compared]:
    """Yield every score of both models' answers; of translations also BLEU and chrF.

    Args:
        right: The answers of the data.
        base: Those of the base model.
        tuned: Those of the tuned model.
        translates: Whether they are translations.

    Source:
        Post 2018, sacreBLEU, https://aclanthology.org/W18-6319; Popovic 2015, chrF, https://aclanthology.org/W15-3049.
    """
    scores = {**_SCORES, "chrf": ("chrF, mean of the rows", _chrf)} if translates else _SCORES
    for name, (label, score) in scores.items():
        found = ([score(*pair) for pair in zip(right, said, strict=True)] for said in (base, tuned))
        yield judgement.scores(name, label, *found)
    if translates:
        yield judgement.sums("bleu", "BLEU", _bleu_counts(right, base), _bleu_counts(right, tuned), _bleu)


def _is_same(right: str, said: str) -> float:
    return float(plain_words(right) == plain_words(said))


def _words_in_common(right: str, said: str) -> float:
    return word_f1(plain_words(right), plain_words(said))


def _longest_row(right: str, said: str) -> float:
    return rouge([right], [said])["rougeL"]


def _chrf(right: str, said: str) -> float:
    return float(CHRF().sentence_score(said, [right]).score) / _PERCENT


_SCORES: dict[str, tuple[str, Callable[[str, str], float]]] = {
    "exact_match": ("Exact match", _is_same),
    "f1": ("Words in common, F1", _words_in_common),
    "rougeL": ("ROUGE-L", _longest_row),
}
"""Scores of one answer, from 0 to 1, by their names: the label, and what computes them."""


def _bleu_counts(right: Sequence[str], said: Sequence[str]) -> list[list[int]]:
    """Return what BLEU adds up over rows: n-grams that are right, all n-grams, words written, and words of the data."""
    metric = BLEU(effective_order=True)  # which changes no count, but warns otherwise
    rows = (metric.sentence_score(found, [answer]) for answer, found in zip(right, said, strict=True))
    return [[*row.counts, *row.totals, row.sys_len, row.ref_len] for row in rows]


def _bleu(counts: Sequence[int]) -> float:
    """Return BLEU of such counts, summed over rows, from 0 to 1: sacrebleu's, tokenized as WMT does (13a)."""
    right, total = [*counts[:MAX_NGRAM_ORDER]], [*counts[MAX_NGRAM_ORDER:-2]]
    written, wanted = counts[-2:]
    return float(BLEU.compute_bleu(right, total, int(written), int(wanted), smooth_method="exp").score) / _PERCENT
