"""The data sets to choose from, the demo's and uploads, and what is in them."""

import functools
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from specs import DataError, paths
from trainer.data import uploaded
from trainer.data.doctor import Report
from trainer.data.examples import Example, examples
from trainer.data.files import reading
from trainer.data.forms.columns import Proposal, proposal
from trainer.data.forms.layouts import recognised_layout
from trainer.data.readers import Reader
from trainer.data.source import DataSource, Thinking
from trainer.data.template.completeness import thinks
from ui.parts import uploads
from ui.parts.examining import FIRST_ROWS, Examination, report_of

DEMO = "Demo: house-style instructions"
DEMO_CLASSES = "Demo: letters to a shop, by topic"
DEMOS = (DEMO, DEMO_CLASSES)


_NOTHING = Proposal(columns={}, reasons={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A data set as it was chosen, and what was said about it."""

    label: str
    thinking: Thinking = "keep"
    split: str = "train"
    evaluation_split: str = ""
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """One data set, examined."""

    label: str
    name: str
    """The name of the file as it was uploaded."""
    source: DataSource
    """The data as a run takes it."""
    report: Report
    """What the file holds, or what its first rows hold while it is read."""
    reader: Reader
    """Whose template and tokenizer read it."""
    running: Examination | None = None
    """What still reads the file."""

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.source.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of an upload, and what is known of their roles."""

    names: tuple[str, ...] = ()
    layout: str = ""
    """Name of the layout that is recognised; empty if none is."""
    likely: Proposal = _NOTHING


def labels() -> list[str]:
    """Return the data sets to choose from."""
    return [*DEMOS, *(_label(path, name) for path, name in uploads.all_kept(uploads.folder()))]


def label_of(source: DataSource) -> str | None:
    """Return the label of the data that a run took; None if it is not kept here any more."""
    wanted = Path(source.path)
    return next((label for label in labels() if Path(source_of(Choice(label=label)).path) == wanted), None)


def find(choice: Choice, reader: Reader) -> Data:
    """Return a chosen data set; of a long file its first rows are examined at once, the rest in the background.

    Raises:
        DataError: If no data set of this name is kept here, or it has no row to train on.
    """
    source = source_of(choice)
    name = uploaded.name_of(Path(source.path))
    try:
        report, running = report_of(source, reader)
    except DataError as error:
        columns = columns_of(choice.label, choice.split)
        if columns.names and not columns.layout and not source.columns:
            known = ", ".join(columns.names)
            way_out = "Say which is which where the columns are asked for"
            raise DataError(name, "has the columns of no known layout", known, way_out) from error
        raise error.renamed(Path(source.path).name, name) from error
    return Data(label=choice.label, name=name, source=source, report=report, reader=reader, running=running)


def source_of(choice: Choice) -> DataSource:
    """Return a chosen data set as a run takes it.

    Raises:
        DataError: If no data set of this name is kept here.
    """
    if choice.label == DEMO:
        asked = json.loads((paths.assets() / "demo_prompts.json").read_text(encoding="utf-8"))
        return DataSource(path=str(paths.demo_data()), prompts=choice.prompts or tuple(asked))
    if choice.label == DEMO_CLASSES:
        return DataSource(path=str(paths.demo_classes()), prompts=choice.prompts)
    kept = _upload(choice.label)
    if kept is None:
        raise DataError("data", "must be a data set that was uploaded here", choice.label, "Upload it again")
    return DataSource(
        path=str(kept),
        columns=uploads.column_roles(kept),
        prompts=choice.prompts,
        thinking=choice.thinking,
        split=choice.split,
        evaluation_split=choice.evaluation_split,
    )


def splits(label: str) -> tuple[str, ...]:
    """Return the names of the splits that an upload holds; none for a file of rows."""
    path = _upload(label)
    return _splits(path) if path else ()


def has_thinking(choice: Choice) -> bool:
    """Return whether any of the first answers begins with reasoning."""
    try:
        source = source_of(choice)
    except DataError:
        return False
    return _has_thinking(source.path, tuple(sorted(source.columns.items())), source.split)


def columns_of(label: str, split: str = "train") -> Columns:
    """Return the columns of an upload; of the demo's data none, which nobody needs to name."""
    path = _upload(label)
    return _columns(path, split) if path else Columns()


def column_roles(label: str) -> dict[str, str]:
    """Return the columns of an upload by the role that the user assigned to them."""
    path = _upload(label)
    return uploads.column_roles(path) if path else {}


def set_column_roles(label: str, roles: Mapping[str, str]) -> None:
    """Remember which column of an upload has which role; with none it is read as recognised."""
    if path := _upload(label):
        uploads.keep_column_roles(path, roles)


def with_column_roles(choice: Choice, roles: Mapping[str, str]) -> DataSource:
    """Return a data set as it would be read with these roles of its columns."""
    return replace(source_of(choice), columns=roles)


def add(stream: BinaryIO, name: str) -> str:
    """Keep an upload and return its label.

    Raises:
        DataError: If the file cannot be kept.
    """
    return _label(uploads.kept(stream, name, uploads.folder()), name)


def _upload(label: str) -> Path | None:
    return next((path for path, name in uploads.all_kept(uploads.folder()) if _label(path, name) == label), None)


@functools.lru_cache(maxsize=16)
def _splits(path: Path) -> tuple[str, ...]:
    return tuple(reading.splits(path))


@functools.lru_cache(maxsize=16)
def _has_thinking(path: str, columns: tuple[tuple[str, str], ...], split: str) -> bool:
    source = DataSource(path=path, columns=dict(columns), split=split)
    try:
        entries = itertools.islice(examples(source), FIRST_ROWS)
        return any(
            thinks(turn)
            for entry in entries
            if isinstance(entry, Example)
            for turn in (*entry.turns, *entry.chosen, *entry.rejected)
        )
    except DataError:
        return False


@functools.lru_cache(maxsize=16)
def _columns(path: Path, split: str) -> Columns:
    try:
        found = itertools.islice((row for _, row in reading.rows(path, split) if isinstance(row, dict)), FIRST_ROWS)
        some = list(found)
    except DataError:
        return Columns()
    if not some:
        return Columns()
    names = tuple(dict.fromkeys(str(name) for row in some for name in row))
    layout = next((name for row in some if (name := _layout(row, path))), "")
    filled = {name: value for row in reversed(some) for name, value in row.items() if value not in (None, "", [], {})}
    likely = proposal({name: filled[name] for name in names if name in filled})
    return Columns(names=names, layout=layout, likely=likely)


def _layout(row: Mapping[str, object], path: Path) -> str:
    try:
        return recognised_layout(row, str(path)).name
    except DataError:
        return ""


def _label(path: Path, name: str) -> str:
    return f"{name} ({path.stem[:6]})"
