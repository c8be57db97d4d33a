"""Which rows of the data are learned, which are held out, and whose questions are asked before and after."""

import hashlib
import itertools
import random
from array import array
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from specs import TASK_TYPES, DataError, FinetunePlan
from specs.dataset import QUESTIONS, SPARED_SHARE, num_held_out, num_spared
from trainer.data.forms import classes
from trainer.results.evaluation import no_rows
from trainer.runs.feasibility import require_classes
from trainer.worker.learning.making import ASIDE


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a run learns from, what it is evaluated on, and what it is asked before and after."""

    learned: Dataset
    numbers: Sequence[int] = ()
    """The number of each learned row in the file, from 1."""
    held_out: Dataset | None = None
    prompts: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    """The classes of texts, or the tags of words, in the order of the model's outputs."""
    texts: int = 1
    """How many texts a model with a head reads together, 1 or 2."""
    expected: Mapping[str, str] = field(default_factory=dict)
    """The data's answers to the prompts that are of it: its questions' answers, its texts' classes."""
    num_spared: int = 0
    """Rows that are neither learned nor evaluated on, since their questions are asked."""


def split_rows(data: Dataset, plan: FinetunePlan, *, asked: tuple[str, ...] = ()) -> Rows:
    """Return the rows to learn from and those to evaluate on, and the questions to ask before and after.

    The questions are a person's own, or of rows that are not learned: those to evaluate on, else a few that are held
    out for this, where the data has enough.

    Raises:
        DataError: If no row is left to train on.
    """
    groups, strata = _groups_and_strata(data)
    held_out = stratified_rows(groups, strata, share=plan.eval_split, seed=plan.seed)
    spared = [] if asked or held_out else _spared_rows(data, groups, seed=plan.seed)
    expected = known_answers(data, plan, asked) if asked else questions_of(data, held_out or spared or range(len(data)))
    prompts = asked or tuple(expected)
    rows, found = without_asides(data), classes_of(data, plan)
    apart = {*held_out, *spared}
    if not apart:
        return Rows(learned=rows, numbers=numbers_of(data), prompts=prompts, expected=expected, classes=found)
    learned = [row for row in range(len(data)) if row not in apart]
    if not learned:
        raise DataError("eval_split", "leaves no row to train on", plan.eval_split, "Lower eval_split or add rows")
    evaluated = rows.select(held_out) if held_out else None
    return Rows(
        learned=rows.select(learned),
        numbers=numbers_of(data.select(learned)),
        held_out=evaluated,
        prompts=prompts,
        expected=expected,
        num_spared=len(spared),
        classes=found,
    )


def left_out(data: Dataset, plan: FinetunePlan, *, asked: Sequence[str]) -> list[int]:
    """Return the rows that a run with this plan did not learn.

    Raises:
        DataError: If it learned all.
    """
    groups, strata = _groups_and_strata(data)
    held_out = stratified_rows(groups, strata, share=plan.eval_split, seed=plan.seed)
    left_out = held_out or ([] if asked else _spared_rows(data, groups, seed=plan.seed))
    if not left_out:
        raise no_rows()
    return left_out


def _groups_and_strata(data: Dataset) -> tuple[Sequence[Hashable], Sequence[Hashable]]:
    """Return for each row what it may not be torn apart from, and what it shall be held out in proportion to."""
    return array("q", data["group"]), data["label"] if "label" in data.column_names else [None] * len(data)


def classes_of(data: Dataset, plan: FinetunePlan, held_out: Dataset | None = None) -> tuple[str, ...]:
    """Return the classes of the data in the order of the model's outputs; none of data without.

    Raises:
        PlanError: If they are not as many as the plan says.
        DataError: If only the held-out rows have one of them.
    """
    found = classes.in_order(_labels(data))
    if not found:
        return ()
    require_classes(plan, len(found))
    strange = sorted(_labels(held_out) - {*found}) if held_out is not None else []
    if strange:
        way_out = "Move rows of it into the split that is learned"
        raise DataError("evaluation split", "must have only classes that are learned", strange[0], way_out)
    return found


def _labels(data: Dataset) -> set[str]:
    """Return all classes of texts or tags of words in the data; none of data without."""
    if "label" in data.column_names:
        return set(data.unique("label"))
    if "tags" in data.column_names:
        return {tag for part in data.data.column("tags").chunks for tag in part.flatten().unique().to_pylist()} - {""}
    return set()


def known_answers(data: Dataset, plan: FinetunePlan, asked: Sequence[str]) -> Mapping[str, str]:
    """Return what the data has for each prompt of a person that is one of its texts; nothing where text is written."""
    if TASK_TYPES[plan.task_type].writes:
        return {}
    return {text: answer for text, answer in zip(data["question"], data["answer"], strict=True) if text in {*asked}}


def numbers_of(data: Dataset) -> Sequence[int]:
    """Return the number of each row in the file."""
    return array("q", data["row"]) if "row" in data.column_names else ()


def without_asides(data: Dataset) -> Dataset:
    """Return rows without what stands beside them only to split them and to ask their questions."""
    return data.remove_columns([name for name in ASIDE if name in data.column_names])


def _spared_rows(data: Dataset, groups: Sequence[Hashable], *, seed: int) -> list[int]:
    """Return rows whose questions are asked and which are not learned, or none where they would be missed."""
    if "question" not in data.column_names or not any(data["question"]):
        return []
    spared = _first_groups(groups, num_spared(len(data)), seed=seed)
    return spared if len(spared) <= SPARED_SHARE * len(data) else []


def questions_of(data: Dataset, rows: Sequence[int]) -> dict[str, str]:
    """Return a few questions of rows, each once, with the answers that the rows have to them."""
    if "question" not in data.column_names:
        return {}
    found: dict[str, str] = {}
    for row in itertools.islice(rows, 10 * QUESTIONS):
        entry = data[row]
        found.setdefault(entry["question"], entry.get("answer") or "")
    return dict(itertools.islice(((asked, wanted) for asked, wanted in found.items() if asked), QUESTIONS))


def stratified_rows(groups: Sequence[Hashable], strata: Sequence[Hashable], *, share: float, seed: int) -> list[int]:
    """Return the rows to evaluate on: about ``share`` of each stratum, such as a class, and whole groups.

    A group belongs to the stratum of its first row; one that is the only one of its stratum is learned.
    """
    of_group = dict(zip(reversed(groups), reversed(strata), strict=True))
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(of_group[group], []).append(row)
    chosen: list[int] = []
    for rows in members.values():
        inside = [groups[row] for row in rows]
        if len(members) == 1 or len(set(inside)) > 1:
            chosen += (rows[place] for place in held_out_rows(inside, share=share, seed=seed))
    return sorted(chosen)


def held_out_rows(groups: Sequence[Hashable], *, share: float, seed: int) -> list[int]:
    """Return the rows to evaluate on: whole groups in an order given by the seed, about ``share`` of all rows."""
    return _first_groups(groups, num_held_out(len(groups), share), seed=seed)


def _first_groups(groups: Sequence[Hashable], wanted: int, *, seed: int) -> list[int]:
    """Return the rows of whole groups, in an order given by the seed, until so many are reached."""
    if not wanted:
        return []
    sizes = Counter(groups)
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest())
    before = [0, *itertools.accumulate(sizes[group] for group in order)]
    chosen = {group for group, count in zip(order, before, strict=False) if count < wanted}
    return [row for row, group in enumerate(groups) if group in chosen]


def drawn(data: Dataset, most: int, *, seed: int) -> list[Mapping[str, Any]]:
    """Return as many rows as are wanted, drawn once and in their order."""
    numbers = sorted(random.Random(seed).sample(range(len(data)), min(most, len(data))))  # noqa: S311 - no secret
    return [data[number] for number in numbers]
