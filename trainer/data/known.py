"""What is known of training data once it was examined, as other tools must be told it."""

from collections.abc import Mapping
from pathlib import Path

from specs import dataset
from specs.dataset import DataFile, TrainingData
from trainer.data.doctor import Report
from trainer.data.files import reading
from trainer.data.forms.readers import SYSTEM
from trainer.data.readers import Reader
from trainer.data.rendering import control_tokens, leading_token
from trainer.data.source import DataSource
from trainer.data.template import chat_template
from trainer.data.template.chat_template import ChatTemplate
from trainer.data.template.families import family

_COLUMNS = {
    "tools": (),
    "history": (dataset.HISTORY,),
    **dict.fromkeys(("input", "context"), (dataset.AROUND,)),
    **dict.fromkeys(SYSTEM, (dataset.SYSTEM,)),
}
"""The traits of rows that use an optional column."""


def training_data(
    source: DataSource, report: Report, reader: Reader, *, name: str = "", model: tuple[str, str] = ("", "")
) -> TrainingData:
    """Return what another tool must know of a data set.

    Args:
        source: The data.
        report: What it holds.
        reader: Whose template and tokenizer read it.
        name: What the person calls it: the name of the uploaded file, or the id on the Hub; empty takes the file's.
        model: The model's ``model_type`` and name, which tell its family.
    """
    path, on_hub = Path(source.path), reading.is_hub_id(name)
    known, template = family(*model), chat_template.chosen(reader.tokenizer.chat_template)
    variant = chat_template.for_training(ChatTemplate(template)) if template else None
    return TrainingData(
        name=name or path.name,
        file=DataFile(kind="") if on_hub else reading.form(path),
        layout=report.layout,
        task=report.task,
        roles=report.roles,
        columns=_columns(source, report),
        traits=_traits(report),
        rows=report.rows,
        skipped=report.skipped,
        thinking=source.thinking,
        split=source.split,
        evaluation_split=source.evaluation_split,
        family=known.template if known else "",
        has_template=template is not None,
        marks_answers=variant is None or variant.marks_answers,
        end_of_turn=_end_of_turn(report, reader) if template else "",
        begins_with_bos=bool(reader.is_own and leading_token(reader.tokenizer)),
    )


def _columns(source: DataSource, report: Report) -> Mapping[str, str]:
    """Return the column of each role that the rows have."""
    used = (*report.roles, *(name for name in _COLUMNS if report.traits.get(name)))
    return {role: source.columns.get(role, role) for role in used}


def _traits(report: Report) -> Mapping[str, int]:
    found = {name: count for name, count in report.traits.items() if name in dataset.TRAITS}
    for column, names in _COLUMNS.items():
        for name in names:
            if count := report.traits.get(column):
                found[name] = found.get(name, 0) + count
    some, several = found.get(dataset.LISTS, 0), sum(bool(report.traits.get(name)) for name in SYSTEM) > 1
    if 0 < some < report.rows or several:
        found[dataset.REWRITTEN] = report.rows
    return found


def _end_of_turn(report: Report, reader: Reader) -> str:
    """Return the special token that the first answer ends with."""
    learned = [words for shown in report.previews[:1] for words, is_learned in shown.pieces if is_learned]
    said = learned[-1].rstrip() if learned else ""
    return next((token for token in control_tokens(reader.tokenizer) if token and said.endswith(token)), "")
