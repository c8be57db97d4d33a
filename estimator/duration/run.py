"""How long a whole run takes, part by part: starting, steps on the data's real lengths, evaluations, answers."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from estimator.duration.operations import Kind, forward_operations, operations, widths
from estimator.duration.step import combined, seconds_by_kind, step_seconds
from specs import FinetunePlan, ModelSpec
from specs.curves import Curves

STARTING, TRAINING, EVALUATING, SAVING, ANSWERING = "starting", "training", "evaluating", "saving", "answering"
PARTS = (STARTING, TRAINING, EVALUATING, SAVING, ANSWERING)
"""The parts of a run, in the order in which they are told."""

_DISK_BYTES_PER_SECOND = 400e6
"""Weights read or written, checked and moved: a slow SSD, https://en.wikipedia.org/wiki/SATA (600 MB/s at most)."""
_LOADING_SECONDS = 1.5
"""Around the weights: configuration, tokenizer, adapter, trainer. SmolLM2-135M, two cores, 2026-11-26."""
_ROW_SECONDS = 1e-3
"""To render and tokenize a row; 323 rows of the demo in 0.3 s, two cores, 2026-11-26."""
_CHECKPOINT_SECONDS = 0.15
"""Besides the bytes: states, moves and the note of it."""
_FIRST_STEP = 1.0
"""How many steps more the first one takes, while memory is claimed and kernels are chosen."""
_ANSWER_TOKENS = 40
"""Tokens of an answer, of the 64 at most that ``trainer.results.answers`` allows: about two in three."""
_ANSWER_PROMPT = 40
_CALLS_OF_TOKEN = 1.5
"""Times the calls of a pass that ``generate`` makes for one token: cache, mask and criteria come on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What of the data decides how long a run takes."""

    rows: int | None = None
    """Rows that are learned."""
    held_out: int = 0
    row_lengths: tuple[int, ...] = ()
    """Tokens of every row, or of a sample of them, sorted."""
    typical: tuple[int, int, int] | None = None
    """Median, 95th percentile and longest, where the rows are unknown."""
    questions: int = 0
    """Questions that are answered by both models at the end."""
    pairs: bool = False
    """Whether rows are pairs of answers."""


def padded_length(plan: FinetunePlan, data: Data) -> float:
    """Return how many tokens a sequence of a batch has on average with its padding.

    Each is padded to the longest of its batch: of b sequences drawn at random, the i-th shortest of n is the longest
    with probability (i/n)^b - ((i-1)/n)^b. Batches that are grouped by length need almost no padding.
    """
    if plan.packing or not (data.row_lengths or data.typical):
        return float(plan.max_length)
    if not data.row_lengths:
        median, p95, _ = data.typical or (0, 0, 0)
        return float(min(plan.max_length, median if plan.per_device_train_batch_size == 1 else p95))
    together = 1 if plan.train_sampling_strategy == "group_by_length" else plan.per_device_train_batch_size
    return _longest_of(together, data.row_lengths, plan.max_length)


@functools.lru_cache(maxsize=64)
def _longest_of(together: int, row_lengths: tuple[int, ...], max_length: int) -> float:
    """Return the mean longest row of a batch; a page asks the same for all that it offers."""
    count = len(row_lengths)
    weights = (((i + 1) / count) ** together - (i / count) ** together for i in range(count))
    return sum(min(length, max_length) * weight for length, weight in zip(row_lengths, weights, strict=True))


def seconds_per_step(model: ModelSpec, plan: FinetunePlan, curves: Curves, data: Data) -> float:
    """Return the time of one optimizer step on one device."""
    length = max(1, round(padded_length(plan, data)))
    found = operations(model, plan, length=length, pairs=data.pairs)
    times = seconds_by_kind(found, curves, plan)
    update = times.pop(Kind.OPTIMIZER)
    calls = sum(entry.calls for entry in found if entry.kind is not Kind.OPTIMIZER)
    updates = sum(entry.calls for entry in found if entry.kind is Kind.OPTIMIZER)
    passing = combined(sum(times.values()), calls * curves.call_seconds, overlaps=curves.overlaps)
    return plan.gradient_accumulation_steps * passing + update + updates * curves.call_seconds


def run_seconds(model: ModelSpec, plan: FinetunePlan, curves: Curves, data: Data, steps: int) -> Mapping[str, float]:
    """Return the seconds of each part of a run."""
    step = seconds_per_step(model, plan, curves, data)
    stored = 2.0 * widths(model).stored + 2.0 * widths(model).head
    saved = 12.0 * trained_weights(model, plan)
    checkpoints = steps // max(1, plan.save_steps)
    return {
        STARTING: curves.seconds_to_start
        + _LOADING_SECONDS
        + stored / _DISK_BYTES_PER_SECOND
        + _ROW_SECONDS * ((data.rows or 0) + data.held_out),
        TRAINING: (steps + _FIRST_STEP) * step,
        EVALUATING: _evaluations(model, plan, curves, data, checkpoints),
        SAVING: (checkpoints + 1) * (_CHECKPOINT_SECONDS + saved / _DISK_BYTES_PER_SECOND),
        ANSWERING: 2 * data.questions * answer_seconds(model, plan, curves),
    }


def trained_weights(model: ModelSpec, plan: FinetunePlan) -> float:
    """Return about how many weights a plan trains."""
    update = [entry for entry in operations(model, plan, batch=1, length=1) if entry.kind is Kind.OPTIMIZER]
    return sum(entry.weights for entry in update)


def answer_seconds(model: ModelSpec, plan: FinetunePlan, curves: Curves) -> float:
    """Return the time of one answer: its prompt in one pass, then a pass for each token."""
    prompt = forward_operations(model, plan, batch=1, length=_ANSWER_PROMPT)
    token = forward_operations(model, plan, batch=1, length=1)
    computing = sum(seconds_by_kind(token, curves, plan).values())
    starting = _CALLS_OF_TOKEN * sum(entry.calls for entry in token) * curves.call_seconds
    each = combined(computing, starting, overlaps=curves.overlaps)
    return step_seconds(prompt, curves, plan) + _ANSWER_TOKENS * each


def _evaluations(model: ModelSpec, plan: FinetunePlan, curves: Curves, data: Data, number: int) -> float:
    """Return the time of all evaluations: a pass without gradients over the held-out rows, at each checkpoint."""
    if not data.held_out:
        return 0.0
    length = max(1, round(padded_length(plan, data)))
    batch = min(plan.per_device_train_batch_size, data.held_out)
    passes = -(-data.held_out // batch)
    found = forward_operations(model, plan, batch=(2 if data.pairs else plan.texts_per_row) * batch, length=length)
    return number * passes * step_seconds(found, curves, plan)
