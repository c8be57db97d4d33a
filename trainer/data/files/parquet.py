"""Reads the rows of a parquet file, which may decode to far more than it holds on disk: such rows are refused first."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from specs import MIB, DataError

Row: TypeAlias = Mapping[str, Any]

_BATCH_BYTES = 32 * MIB
_BATCH_ROWS = 512

_MANY_VALUES = 10_000_000
_LARGE_COLUMN_BYTES = 256 * MIB
_HIGHEST_COMPRESSION = 1000
"""Text compresses to a tenth; only one letter over and over compresses more than a thousandfold."""

_PAGE_VALUES = 1024
"""A page, which is decoded as a whole, ends at 1 MiB, but writers look at that after so many values only
(``parquet::WriterProperties::write_batch_size``)."""

_WAY_OUT = "Write the file again with the rows that are meant"
_SMALLER = "Write it again with smaller row groups, or as jsonl"


def values(path: Path, *, longest: int) -> Iterator[Row | str]:
    """Yield the rows of a file; in place of one that cannot be read, the reason.

    Args:
        path: The file.
        longest: Bytes of the longest row that is read.

    Raises:
        DataError: If the file says of itself that its rows are impossibly many or long.
        pyarrow.ArrowException: If it is broken.
    """
    with pyarrow.parquet.ParquetFile(path) as plain:
        meta, schema = plain.metadata, plain.schema
    _refuse_bomb(meta, path, longest)
    texts = [column.path for column in map(schema.column, range(len(schema))) if column.physical_type == "BYTE_ARRAY"]
    # Words that are stored once and repeated by number stay so, until it is known how long the rows are.
    with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as table:
        names = _class_names(table.schema_arrow.metadata or {})
        decoded, most = 0, max(_LARGE_COLUMN_BYTES, _HIGHEST_COMPRESSION * path.stat().st_size)
        for batch in table.iter_batches(batch_size=_batch_rows(meta)):
            for part, num_bytes in _parts(batch, longest):
                decoded += num_bytes
                if decoded > most:
                    rule = f"repeats its words to more than {_HIGHEST_COMPRESSION:,} times its size"
                    raise DataError(path.name, rule, None, _WAY_OUT)
                if num_bytes > longest:
                    yield f"is longer than {longest // MIB} MiB"
                    continue
                yield from (row if isinstance(row, str) else _named(row, names) for row in _rows(part))


def _class_names(metadata: Mapping[bytes, bytes]) -> Mapping[str, Sequence[str]]:
    """Return the names of numbered classes, by column, as the datasets library keeps them in a file.

    Source:
        datasets 5.2, arrow_writer.py, ``_build_metadata``; features.py, ``ClassLabel``, ``List`` and ``Sequence``.
    """
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"].items()
        inner = {name: kind.get("feature", kind) for name, kind in features}
        classes = {name: kind["names"] for name, kind in inner.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: found for name, found in classes.items() if isinstance(found, list)}


def _named(row: Row, classes: Mapping[str, Sequence[str]]) -> Row:
    """Return a row with the names of its classes in place of their numbers."""
    return {**row, **{name: _name(row[name], names) for name, names in classes.items() if name in row}}


def _name(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_name(entry, names) for entry in value]
    return str(names[value]) if isinstance(value, int) and 0 <= value < len(names) else value


def _refuse_bomb(meta: Any, path: Path, longest: int) -> None:
    size = path.stat().st_size
    for group in map(meta.row_group, range(meta.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            num_bytes, num_values = column.total_uncompressed_size, column.num_values
            if num_values * meta.num_row_groups > max(_MANY_VALUES, size):
                rule = f"{column.path_in_schema} would have more values than the file has bytes"
                raise DataError(path.name, rule, f"{num_values:,} in one of {meta.num_row_groups:,} parts", _WAY_OUT)
            if num_bytes > longest * max(group.num_rows, 1):
                rule = f"{column.path_in_schema} has rows longer than {longest // MIB} MiB"
                raise DataError(path.name, rule, f"{num_bytes // MIB:,} MiB in {group.num_rows:,} rows", _WAY_OUT)
            if num_bytes * min(1, _PAGE_VALUES / max(num_values, 1)) > _LARGE_COLUMN_BYTES:
                rule = f"{column.path_in_schema} may take more than {_LARGE_COLUMN_BYTES // MIB} MiB at once"
                raise DataError(path.name, rule, f"{num_bytes // MIB:,} MiB in {num_values:,} values", _SMALLER)
            compressed = max(column.total_compressed_size, 1)
            if num_bytes > max(_LARGE_COLUMN_BYTES, _HIGHEST_COMPRESSION * compressed):
                rule = f"{column.path_in_schema} is compressed more than {_HIGHEST_COMPRESSION:,} times, as no text is"
                raise DataError(path.name, rule, f"{num_bytes // MIB:,} MiB in {compressed:,} bytes", _WAY_OUT)


def _batch_rows(meta: Any) -> int:
    """Return how many rows to decode at once, by the size that the file says they have."""
    total = sum(meta.row_group(index).total_byte_size for index in range(meta.num_row_groups))
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * max(meta.num_rows, 1) // max(total, 1)))


def _parts(batch: Any, longest: int) -> Iterator[tuple[Any, int]]:
    """Yield a batch and its bytes once decoded, in halves where these are too many, down to single rows."""
    size = sum(_decoded_bytes(column) for column in batch.columns)
    if size <= longest or batch.num_rows == 1:
        yield batch, size
        return
    half = batch.num_rows // 2
    yield from _parts(batch.slice(0, half), longest)
    yield from _parts(batch.slice(half), longest)


def _decoded_bytes(column: Any) -> int:
    """Return how many bytes the values of a column have once repeated words are written out."""
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        lengths = pyarrow.compute.binary_length(column.dictionary)
        return int(pyarrow.compute.sum(lengths.take(column.indices)).as_py() or 0)
    if pyarrow.types.is_struct(kind):
        return sum(map(_decoded_bytes, column.flatten()))
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return _decoded_bytes(column.flatten())
    return int(column.nbytes)


def _rows(batch: Any) -> Iterator[Row | str]:
    """Yield the rows of a batch; where one cannot be a Python value, such as a date of the year 300,000, its reason."""
    try:
        found = batch.to_pylist()
    except (ValueError, OverflowError, pyarrow.ArrowException):
        found = [_row_value(batch.slice(index, 1)) for index in range(batch.num_rows)]
    for value in found:
        yield _row_without_nulls(value) if isinstance(value, dict) else value


def _row_value(single: Any) -> dict[str, Any] | str:
    try:
        row: dict[str, Any] = single.to_pylist()[0]
    except (ValueError, OverflowError, pyarrow.ArrowException) as error:
        return f"has a value that cannot be read: {brief(error)}"
    return row


def brief(error: BaseException) -> str:
    """Return the first line of an error, cut to what a sentence can hold."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return first_line if len(first_line) <= 100 else f"{first_line[:97]}..."


def _without_nulls(value: Any) -> Any:
    """Return a nested value without the empty keys that a table gives to every row as soon as one row has them."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [_without_nulls(entry) for entry in value]
    return value


def _row_without_nulls(row: dict[str, Any]) -> Row:
    return {name: _without_nulls(value) if isinstance(value, list | dict) else value for name, value in row.items()}
