"""Uploaded files, kept in the runs folder under names that LoRAFit chooses, so that no upload can pick a path."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from specs import DataError, paths
from trainer import files
from trainer.data import uploaded
from trainer.runs.storage import private
from trainer.runs.storage.database import UPLOADS

KINDS = ("jsonl", "json", "csv", "tsv", "parquet", "txt")
MOST_BYTES = 2**30
_CHUNK = 2**20


def kept(stream: BinaryIO, name: str, folder: Path) -> Path:
    """Store an upload under the hash of its content and return its path; the same content is stored once.

    Raises:
        DataError: If the type of file is unknown, or the file is empty or too large.
    """
    kind = name.rsplit(".", 1)[-1].lower()
    if kind not in KINDS:
        raise DataError("upload", f"must be a {', '.join(KINDS)} file", kind, "Convert it first")
    digest, size = _digest(stream)
    if not size:
        raise DataError("upload", "is empty", None, "Choose a file with examples")
    if size > MOST_BYTES:
        raise DataError("upload", "must not exceed 1 GiB", size, "Upload a part of it")
    target = folder / f"{digest[:16]}.{kind}"
    if not target.exists():
        private.make_folder(folder)
        with files.scratch_folder(folder) as scratch:
            stream.seek(0)
            with (scratch / target.name).open("wb") as out:
                shutil.copyfileobj(stream, out, _CHUNK)
            (scratch / target.name).replace(target)
        target.with_suffix(".name.json").write_text(json.dumps(name[-120:]), encoding="utf-8")
        private.tighten_files(folder.glob(f"{target.stem}.*"))
    return target


def folder() -> Path:
    """Return where uploads are kept."""
    return paths.runs() / UPLOADS


def all_kept(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every stored upload, newest first, with its original name."""
    files = [path for path in folder.glob("*.*") if path.suffix.lstrip(".") in KINDS and len(path.suffixes) == 1]
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        yield path, uploaded.name_of(path)


def column_roles(path: Path) -> dict[str, str]:
    """Return the columns of an upload by the role that the user assigned to them."""
    roles = uploaded.noted(path, "columns")
    if not isinstance(roles, dict):
        return {}
    return {role: column for role, column in roles.items() if isinstance(role, str) and isinstance(column, str)}


def keep_column_roles(path: Path, roles: Mapping[str, str]) -> None:
    """Remember which column of an upload has which role."""
    path.with_suffix(".columns.json").write_text(json.dumps(dict(roles)), encoding="utf-8")
    private.tighten_files([path.with_suffix(".columns.json")])


def _digest(stream: BinaryIO) -> tuple[str, int]:
    """Return the SHA-256 of a stream and its size."""
    digest, size = hashlib.sha256(), 0
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size
