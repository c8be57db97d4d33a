"""Reads the rows of a file one after the other: json, jsonl, csv, tsv, parquet or txt, in the encodings people save."""

import codecs
import csv
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import ijson
import pyarrow

from specs import MIB, DataError
from specs.dataset import DataFile
from trainer.data.files import delimited, parquet
from trainer.data.files.bounds import LONGEST, Shortened, is_too_much
from trainer.data.files.encodings import encoding
from trainer.data.files.parquet import brief
from trainer.data.row import Finding, Row, Rows, UnreadableError

_LARGEST_OBJECT = 64 * MIB
"""Bytes of the largest json file that is read at once. A list of rows and jsonl have no such limit."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[A-Za-z0-9][\w.-]*)?")


def is_hub_id(name: str) -> bool:
    """Return whether a text names a data set of the Hub, such as ``owner/name`` or ``owner/name@revision``."""
    return _HUB_ID.fullmatch(name) is not None


def require_file(path: Path) -> None:
    """Refuse what is no file.

    Raises:
        DataError: If there is none of this path.
    """
    if not path.is_file():
        raise DataError(str(path), "is not a file", None, f"Choose a file that ends in {', '.join(READERS)}")


def rows(path: Path, split: str = "train") -> Rows:
    """Yield the rows of a file with their numbers, from 1.

    Args:
        path: The file.
        split: Which split to read of a json file that holds several by name.

    Raises:
        DataError: If the file does not exist, has an unknown ending, is broken as a whole, or holds no such split.
    """
    require_file(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(path.name, f"must end in {', '.join(READERS)}", path.suffix or "no ending")
    try:
        if reader is _json_rows:
            yield from _json_rows(path, split)
        else:
            _require_all(path, split)
            yield from reader(path)
    except UnicodeDecodeError as error:
        raise DataError(path.name, "must be text in UTF-8 or UTF-16", None, "Save it again as UTF-8") from error
    except (pyarrow.ArrowException, csv.Error, OSError) as error:
        raise DataError(path.name, f"cannot be read as {path.suffix[1:].lower()}", brief(error)) from error


def _require_all(path: Path, split: str) -> None:
    """Refuse to read all rows of a file as one of several splits: rows that are learned would count as held out.

    Raises:
        DataError: If another split than the default is asked for.
    """
    if split != "train":
        way_out = "Leave the split out, or name a file of those rows"
        raise DataError(path.name, "holds no splits to choose from", split, way_out)


def splits(path: Path) -> Mapping[str, int]:
    """Return the splits that one json file holds, with their rows; nothing for any other file."""
    if path.suffix.lower() != ".json" or path.stat().st_size > _LARGEST_OBJECT:
        return {}
    try:
        text = path.read_text(encoding=encoding(path))
        found = {} if is_too_much(text) else _splits(json.loads(text))
        return {name: sum(1 for _ in entries) for name, entries in found.items()}
    except (OSError, ValueError, RecursionError):
        return {}


def form(path: Path) -> DataFile:
    """Return how a file keeps its rows.

    Raises:
        DataError: If it cannot be opened.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind == "parquet":
        return DataFile(kind=kind)
    try:
        how = encoding(path)
        with path.open(encoding=how, newline="") as stream:
            head = stream.readline(LONGEST)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path.name, "cannot be opened", brief(error)) from error
    plain = how == "utf-8" and (kind != "json" or head.lstrip().startswith("["))
    return DataFile(
        kind=kind,
        delimiter=delimited.delimiter_of(head, path) if kind in {"csv", "tsv"} else ",",
        encoding=how,
        is_plain=plain,
    )


def _lines(stream: IO[str]) -> Iterator[str | None]:
    """Yield lines, and None for one that is too long to be held."""
    while line := stream.readline(LONGEST):
        if line.endswith("\n") or len(line) < LONGEST:
            yield line
            continue
        while (more := stream.readline(LONGEST)) and not more.endswith("\n"):
            pass
        yield None


def _too_long(number: int) -> Finding:
    return Finding(row=number, reason=f"is longer than {LONGEST // MIB} MiB")


def _jsonl_rows(path: Path) -> Rows:
    with path.open(encoding=encoding(path)) as stream:
        for number, line in enumerate(_lines(stream), start=1):
            if line is None:
                yield number, _too_long(number)
            elif not line.isspace():
                yield number, _json_row(line, number)


def _json_row(line: str, number: int) -> Row | Finding:
    if is_too_much(line):
        return Finding(row=number, reason="holds too many values for one row")
    try:
        return _object(json.loads(line, parse_constant=_nothing), number)
    except (ValueError, RecursionError) as error:
        return Finding(row=number, reason=f"is not valid JSON: {brief(error)}")


def _nothing(_: str) -> None:
    """Read NaN and infinity, which JSON does not have and Python writes for what is missing, as null."""


def _object(value: Any, number: int) -> Row | Finding:
    if isinstance(value, dict):
        return value
    return Finding(row=number, reason=f"must be a JSON object, got {type(value).__name__}")


def _json_rows(path: Path, split: str) -> Rows:
    """Yield the rows of a json file, read as a whole where it is small and entry by entry where it is a long list."""
    how, size = encoding(path), path.stat().st_size
    text = path.read_text(encoding=how) if size <= _LARGEST_OBJECT else ""
    if size > _LARGEST_OBJECT or is_too_much(text):
        del text
        _require_all(path, split)
        yield from _listed_rows(path, how)
        return
    try:
        value = json.loads(text, parse_constant=_nothing)
    except (ValueError, RecursionError) as error:
        lines = [line for line in text.splitlines()[:2] if line.strip()]
        if len(lines) == 2 and all(isinstance(_json_row(line, 1), dict) for line in lines):
            _require_all(path, split)
            yield from _jsonl_rows(path)  # one object a line under the name .json is common
            return
        raise DataError(path.name, "must be valid JSON", brief(error)) from error
    named = _splits(value)
    if not named:
        _require_all(path, split)
    elif split not in named:
        raise DataError(path.name, f"must have the split {split}", ", ".join(named), "Name one of these")
    entries = named[split] if named else value if isinstance(value, list) else _rows_of_object(value, path)
    for number, entry in enumerate(entries, start=1):
        yield number, _object(entry, number)


def _listed_rows(path: Path, how: str) -> Rows:
    with path.open(encoding=how) as text:
        if not text.read(1024).lstrip().startswith("["):
            size = path.stat().st_size
            rule = f"may have {_LARGEST_OBJECT // MIB} MiB as json that is not a list of rows"
            if size <= _LARGEST_OBJECT:
                rule = "holds too many values for json that is not a list of rows"
            raise DataError(path.name, rule, f"{size:,} bytes", "Convert it to jsonl")
    with path.open("rb") as stream:
        encoded: Any = stream if how == "utf-8" else codecs.EncodedFile(stream, "utf-8", how)
        shortened = Shortened(encoded)
        try:
            for number, entry in enumerate(ijson.items(shortened, "item", use_float=True), start=1):
                yield number, _too_long(number) if shortened.has_cut else _object(entry, number)
                shortened.has_cut = False
        except (ijson.JSONError, ValueError, UnreadableError) as error:
            raise DataError(path.name, "must be valid JSON", brief(error)) from error


def _rows_of_object(value: Any, path: Path) -> Iterable[Any]:
    """Return the rows of a single object without splits: its only list, its columns side by side, or itself."""
    if not isinstance(value, dict):
        raise DataError(path.name, "must hold a list of objects", type(value).__name__)
    columns = _columns(value)
    if columns:
        return _rows_of_columns(columns)
    lists = [entry for entry in value.values() if isinstance(entry, list) and entry and isinstance(entry[0], dict)]
    return lists[0] if len(lists) == 1 and not {"messages", "conversations"} & value.keys() else [value]


_SPLIT_NAMES = frozenset({"train", "training", "test", "validation", "valid", "val", "dev", "eval", "evaluation"})


def _splits(value: Any) -> dict[str, Iterable[Any]]:
    """Return the splits of an object such as ``{"train": [...], "test": [...]}``, each as its rows."""
    if not isinstance(value, dict) or not value or not {str(name).casefold() for name in value} <= _SPLIT_NAMES:
        return {}
    found: dict[str, Iterable[Any]] = {}
    for name, entries in value.items():
        columns = _columns(entries) if isinstance(entries, dict) else {}
        if not columns and not isinstance(entries, list):
            return {}
        usual = "train" if name.casefold() in {"train", "training"} else name.casefold()
        found[usual] = _rows_of_columns(columns) if columns else entries
    return found


def _rows_of_columns(columns: Mapping[str, Sequence[Any]]) -> Iterator[Row]:
    """Yield the rows of a table, one at a time: together they take several times the memory of its columns."""
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _columns(value: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """Return the columns of a table that is stored column by column, as lists or as pandas' numbered objects."""
    if {"messages", "conversations"} & value.keys() and len(value) == 1:
        (only,) = value.values()
        if isinstance(only, list) and only and isinstance(only[0], dict):
            return {}  # a single conversation
    columns = {name: _column(entries) for name, entries in value.items()}
    lengths = {-1 if entries is None else len(entries) for entries in columns.values()}
    if len(lengths) != 1 or lengths & {-1, 0} or (len(columns) == 1 and not _is_column(next(iter(columns.values())))):
        return {}
    return {name: entries for name, entries in columns.items() if entries is not None}


def _column(value: Any) -> Sequence[Any] | None:
    if isinstance(value, list):
        return value
    numbered = isinstance(value, dict) and value and all(str(key).isdecimal() for key in value)
    return list(value.values()) if numbered else None


def _is_column(entries: Sequence[Any] | None) -> bool:
    """Return whether a single list is a column of values, and not a list of rows under a name."""
    return entries is not None and not isinstance(entries[0], dict)


def _parquet_rows(path: Path) -> Rows:
    for number, row in enumerate(parquet.values(path, longest=LONGEST), start=1):
        yield number, Finding(row=number, reason=row) if isinstance(row, str) else row


def _txt_rows(path: Path) -> Rows:
    """Yield paragraphs: what stands between empty lines."""
    number = 0
    with path.open(encoding=encoding(path)) as stream:
        for filled, lines in itertools.groupby(_lines(stream), key=lambda line: line is None or bool(line.strip())):
            if filled:
                number += 1
                yield number, _paragraph(lines, number)


def _paragraph(lines: Iterator[str | None], number: int) -> Row | Finding:
    kept, length = [], 0
    for line in lines:
        length += LONGEST + 1 if line is None else len(line)
        kept += [line] if line is not None and length <= LONGEST else []
    if length > LONGEST:
        return _too_long(number)
    return {"text": "".join(kept).rstrip("\n")}


READERS: Mapping[str, Callable[..., Rows]] = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": delimited.rows,
    ".tsv": delimited.rows,
    ".parquet": _parquet_rows,
    ".txt": _txt_rows,
}
"""How each kind of file is read, by its ending."""
