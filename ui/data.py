"""The training data a person can choose: the demo's and what was uploaded."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from catalog import paths
from specs import DataError
from trainer.contract import DataSource
from ui import uploads

DEMO = "Demo: house-style instructions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """One data set as the advice needs it."""

    label: str
    path: Path
    rows: int | None = None
    tokens: tuple[int, int, int] | None = None
    """Tokens of a row: median, 95th percentile, longest."""
    prompts: tuple[str, ...] = ()
    """What the base model and the tuned one are asked; empty takes the data's own first prompts."""

    @property
    def source(self) -> DataSource:
        """The data as a run takes it."""
        return DataSource(path=str(self.path), prompts=self.prompts)


def folder() -> Path:
    """Return where uploads are kept."""
    return paths.runs() / "uploads"


def labels() -> list[str]:
    """Return the data sets to choose from."""
    return [DEMO, *(_label(path, name) for path, name in uploads.all_kept(folder()))]


def find(label: str) -> Data:
    """Return a chosen data set.

    Raises:
        DataError: If no data set of this name is kept here.
    """
    if label == DEMO:
        return _demo()
    for path, name in uploads.all_kept(folder()):
        if _label(path, name) == label:
            return Data(label=label, path=path)
    raise DataError("data", "must be a data set that was uploaded here", label, "Upload it again")


def add(stream: BinaryIO, name: str) -> str:
    """Keep an upload and return its label.

    Raises:
        DataError: If the file cannot be kept.
    """
    return _label(uploads.kept(stream, name, folder()), name)


@functools.cache
def _demo() -> Data:
    path = paths.demo_data()
    prompts = json.loads((paths.assets() / "demo_prompts.json").read_text(encoding="utf-8"))
    with path.open(encoding="utf-8") as lines:
        rows = sum(1 for line in lines if line.strip())
    return Data(label=DEMO, path=path, rows=rows, prompts=tuple(prompts))


def _label(path: Path, name: str) -> str:
    return f"{name} ({path.stem[:6]})"
