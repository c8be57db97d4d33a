"""Prints what is found in a data set before training: its layout, its findings, and rows as a model reads them."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from specs.tasks import kind_for, require_trained_for, task_type_of
from trainer.data.doctor import Report, examined
from trainer.data.source import HELD, DataSource
from trainer.data.tokenizer import FamilyTokenizer, FolderTokenizer

_FAMILY = "qwen3"
"""Whose chat template shows data that is examined for no model: it renders calls, reasoning and system prompts."""
_QUANTILES = (("median", 0.5), ("95th percentile", 0.95), ("longest", 1.0))
_COUNTED = {"classification": ("classes", "rows"), "tags": ("tags", "words")}
"""What is counted of data in which nobody answers, and of what each has so many."""
_SHOWN_FINDINGS = 10
_SHOWN_NAMES = 20
_SHOWN_CHARACTERS = 100


def show_examined(
    data: DataSource, *, model: Path | None, task_types: tuple[str, ...], rows: int, as_json: bool
) -> None:
    """Print what is found in a data set before training.

    Args:
        data: The data set.
        model: The folder of the model whose tokenizer and template read it, if any.
        task_types: The tasks that this model can be trained for, which decide how it reads; empty for any decoder.
        rows: How many rows to print as the model reads them.
        as_json: Whether to print JSON.

    Raises:
        DataError: If the data cannot be read.
        SpecError: If such a model is not trained on such data.
    """
    tokenizer = FolderTokenizer(model) if model else FamilyTokenizer(_FAMILY)
    report = examined(data, tokenizer, previews=rows, task_types=task_types)
    task = task_type_of(report.kinds, task_types)
    require_trained_for(model.name if model else "", task_types, task.name)
    kind = kind_for(report.kinds, task.name)
    template = f"of {model}" if model else f"of the family {_FAMILY}"
    by = f"by the template {template}" if task.name == "CAUSAL_LM" else "without a template"
    if as_json:
        print(json.dumps({**_checked(report), "task": kind, "template": template}, indent=2))
        return
    print(f"{Path(data.path).name}: {report.rows:,} rows, {report.skipped:,} skipped")
    others = " or ".join(HELD[one] for one in report.kinds if one != kind)
    otherwise = f" (another model may read {others})" if others else ""
    print(f"  read as {HELD[kind]}{otherwise}, layout {report.layout}")
    print(f"  {report.duplicates:,} rows repeat an earlier one")
    for line in _of_classes(report):
        print(line)
    if report.lengths:
        told = ", ".join(f"{name} {report.quantile(share):,}" for name, share in _QUANTILES)
        print(f"  tokens: {told}")
    for name, count in itertools.islice(report.unused.items(), _SHOWN_NAMES):
        print(f"  not read: {name[:_SHOWN_CHARACTERS]}, in {count:,} rows")
    if len(report.unused) > _SHOWN_NAMES:
        print(f"  not read: {len(report.unused) - _SHOWN_NAMES:,} more columns or keys; --json lists them")
    for finding in report.findings[:_SHOWN_FINDINGS]:
        print(f"  {finding.sentence}")
    for preview in report.previews:
        read = f"{by}, what is learned in [[ ]]"
        print(f"  row {preview.row} {read if preview.writes else f'is {preview.label}'}:")
        print("    " + "".join(f"[[{words}]]" if learned else words for words, learned in preview.pieces))


def _of_classes(report: Report) -> Iterator[str]:
    """Yield the lines about the classes of texts or the tags of words, where the rows have any."""
    if report.task in _COUNTED:
        what, of = _COUNTED[report.task]
        shown = itertools.islice(report.labels.items(), _SHOWN_NAMES)
        yield f"  {what}: {', '.join(f'{name} ({count:,} {of})' for name, count in shown)}"
    if report.imbalance:
        yield f"  {report.imbalance}"


def _checked(report: Report) -> dict[str, Any]:
    """Return what was found in a data set as plain JSON values."""
    return {
        "rows": report.rows,
        "skipped": report.skipped,
        "task": report.task,
        "layout": report.layout,
        "unused": dict(report.unused),
        "labels": dict(report.labels),
        "duplicates": report.duplicates,
        "lengths": {name: report.quantile(share) for name, share in _QUANTILES} if report.lengths else {},
        "reasons": dict(report.reasons),
        "findings": [{"row": finding.row, "sentence": finding.sentence} for finding in report.findings],
        "shown": [
            {
                "row": preview.row,
                "pieces": [list(piece) for piece in preview.pieces],
                **({"rejected": [list(piece) for piece in preview.rejected]} if preview.rejected else {}),
                **({} if preview.label is None else {"label": preview.label}),
            }
            for preview in report.previews
        ],
    }
