"""The data sets to choose from, the demo's and uploads, and what is in them."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from specs import DataError, paths
from trainer.data.columns import proposed_columns
from trainer.data.doctor import Report, examined
from trainer.data.layouts import recognised_layout
from trainer.data.reading import rows
from trainer.data.source import DataSource
from trainer.data.tokenizer import FolderTokenizer
from ui.parts import notices
from ui.plan import uploads

DEMO = "Demo: house-style instructions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """One data set, examined."""

    label: str
    path: Path
    report: Report
    columns: Mapping[str, str] = field(default_factory=dict)
    """The role of each column, where the user assigned one."""
    prompts: tuple[str, ...] = ()
    """Prompts for the base and the tuned model; empty means the first prompts of the data."""

    @property
    def source(self) -> DataSource:
        """The data in the form that a run takes."""
        return DataSource(path=str(self.path), columns=self.columns, prompts=self.prompts)

    @property
    def tokens(self) -> tuple[int, int, int] | None:
        """Tokens of a row: median, 95th percentile, longest."""
        if not self.report.lengths:
            return None
        return self.report.quantile(0.5), self.report.quantile(0.95), self.report.lengths[-1]


def labels() -> list[str]:
    """Return the data sets to choose from."""
    return [DEMO, *(_label(path, name) for path, name in uploads.all_kept(_folder()))]


def find(label: str) -> Data:
    """Return a chosen data set; its first examination reads the whole file.

    Raises:
        DataError: If no data set of this name is kept here, or it has no row to train on.
    """
    if label == DEMO:
        prompts = json.loads((paths.assets() / "demo_prompts.json").read_text(encoding="utf-8"))
        path = paths.demo_data()
        return Data(label=DEMO, path=path, report=_report(path, paths.demo_model(), ()), prompts=tuple(prompts))
    kept = _upload(label)
    if kept is None:
        raise DataError("data", "must be a data set that was uploaded here", label, "Upload it again")
    columns = uploads.column_roles(kept)
    report = _report(kept, paths.demo_model(), tuple(sorted(columns.items())))
    return Data(label=label, path=kept, columns=columns, report=report)


def unrecognised_columns(label: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Return the columns of an upload whose layout is not recognised, and their likely roles; none for other data."""
    path = _upload(label)
    return _unrecognised_columns(path) if path else ((), {})


def column_roles(label: str) -> dict[str, str]:
    """Return the columns of an upload by the role that the user assigned to them."""
    path = _upload(label)
    return uploads.column_roles(path) if path else {}


def set_column_roles(label: str, roles: Mapping[str, str]) -> None:
    """Remember which column of an upload has which role."""
    if path := _upload(label):
        uploads.keep_column_roles(path, roles)


def add(stream: BinaryIO, name: str) -> str:
    """Keep an upload and return its label.

    Raises:
        DataError: If the file cannot be kept.
    """
    return _label(uploads.kept(stream, name, _folder()), name)


def _folder() -> Path:
    return paths.runs() / "uploads"


def _upload(label: str) -> Path | None:
    return next((path for path, name in uploads.all_kept(_folder()) if _label(path, name) == label), None)


@functools.lru_cache(maxsize=16)
def _unrecognised_columns(path: Path) -> tuple[tuple[str, ...], Mapping[str, str]]:
    try:
        row: Mapping[str, Any] = next((row for _, row in rows(path) if isinstance(row, dict)), {})
    except DataError:
        return (), {}
    try:
        recognised_layout(row, str(path))
    except DataError:
        return tuple(map(str, row)), proposed_columns(row)
    return (), {}


@functools.lru_cache(maxsize=16)
def _report(path: Path, tokenizer_folder: Path, columns: tuple[tuple[str, str], ...]) -> Report:
    tokenizer = FolderTokenizer(tokenizer_folder) if (tokenizer_folder / "tokenizer.json").exists() else None
    return examined(DataSource(path=str(path), columns=dict(columns)), tokenizer, progress=_tell_rows)


def _tell_rows(number: int) -> None:
    if number:
        notices.tell(f"examining the data, {number:,} rows read")


def _label(path: Path, name: str) -> str:
    return f"{name} ({path.stem[:6]})"
