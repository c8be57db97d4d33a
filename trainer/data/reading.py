"""Reads the rows of a file: json, jsonl, csv, parquet or txt, one after the other."""

import csv
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.parquet

from specs import DataError

Row: TypeAlias = Mapping[str, Any]
_Rows: TypeAlias = Iterator[tuple[int, "Row | Finding"]]

_LARGEST_JSON = 2**30
"""Bytes of the largest json file that is read at once; jsonl has no such limit."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[A-Za-z0-9][\w.-]*)?")

# One row is one example; the standard library's own limit of 128 KiB a field is below long documents.
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A row that cannot be trained on, and why."""

    row: int
    sentence: str


def is_hub_id(name: str) -> bool:
    """Return whether a text names a data set of the Hub, such as ``owner/name`` or ``owner/name@revision``."""
    return _HUB_ID.fullmatch(name) is not None


def rows(path: Path) -> _Rows:
    """Yield the rows of a file with their numbers, from 1.

    Raises:
        DataError: If the file does not exist, has an unknown ending, or is broken as a whole.
    """
    if not path.is_file():
        raise DataError(str(path), "is no file", None, "Choose a json, jsonl, csv, parquet or txt file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(path.name, f"must end in {', '.join(_READERS)}", path.suffix or "no ending")
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise DataError(path.name, "must be text in UTF-8", None, "Save it again as UTF-8") from error
    except (pyarrow.ArrowException, csv.Error, OSError) as error:
        raise DataError(path.name, f"cannot be read as {path.suffix[1:].lower()}", str(error)) from error


def _jsonl_rows(path: Path) -> _Rows:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, _json_row(line, number)


def _json_row(line: str, number: int) -> Row | Finding:
    try:
        return _object(json.loads(line), number)
    except (ValueError, RecursionError) as error:
        return Finding(row=number, sentence=f"Row {number}: is not valid JSON: {error}.")


def _object(value: Any, number: int) -> Row | Finding:
    if isinstance(value, dict):
        return value
    return Finding(row=number, sentence=f"Row {number}: must be a JSON object, got {type(value).__name__}.")


def _json_rows(path: Path) -> _Rows:
    size = path.stat().st_size
    if size > _LARGEST_JSON:
        raise DataError(path.name, "may have 1 GiB as json", f"{size:,} bytes", "Convert it to jsonl")
    text = path.read_text(encoding="utf-8-sig")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = [line for line in text.splitlines()[:2] if line.strip()]
        if len(lines) == 2 and all(isinstance(_json_row(line, 1), dict) for line in lines):
            yield from _jsonl_rows(path)  # one object a line under the name .json is common
            return
        raise DataError(path.name, "must be valid JSON", str(error)) from error
    if isinstance(value, dict):
        lists = [entry for entry in value.values() if isinstance(entry, list)]
        value = lists[0] if len(lists) == 1 and not {"messages", "conversations"} & value.keys() else [value]
    if not isinstance(value, list):
        raise DataError(path.name, "must hold a list of objects", type(value).__name__)
    for number, entry in enumerate(value, start=1):
        yield number, _object(entry, number)


def _csv_rows(path: Path) -> _Rows:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        yield from enumerate(csv.DictReader(stream), start=1)


def _parquet_rows(path: Path) -> _Rows:
    number = 0
    with pyarrow.parquet.ParquetFile(path) as table:
        for batch in table.iter_batches(batch_size=512):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _txt_rows(path: Path) -> _Rows:
    """Yield paragraphs: what stands between empty lines."""
    number = 0
    with path.open(encoding="utf-8-sig") as stream:
        for filled, lines in itertools.groupby(stream, key=lambda line: bool(line.strip())):
            if filled:
                number += 1
                yield number, {"text": "".join(lines).rstrip("\n")}


_READERS: Mapping[str, Callable[[Path], _Rows]] = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
    ".txt": _txt_rows,
}
