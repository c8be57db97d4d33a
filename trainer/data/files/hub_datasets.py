"""Fetches a data set from the Hub into one file; runs as a process of its own.

``python -m trainer.data.files.hub_datasets NAME FOLDER``. The file holds a revision that never
changes, and is read as any other file.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import httpx2
from datasets import disable_progress_bars, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub import DatasetInfo, HfApi

from specs import DataError
from specs.doors import faults
from specs.doors.door import door
from trainer import files

_SPLIT = "train"


def fetched(name: str, folder: Path) -> Path:
    """Return the file that holds the rows of a data set's split ``train``, fetched if it is not there.

    No code of the data set is run: datasets has not been able to since its version 4.

    Args:
        name: ``owner/name``, or ``owner/name@revision``.
        folder: Where fetched data sets are kept.

    Raises:
        DataError: If it cannot be fetched.
    """
    repo, _, revision = name.partition("@")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        info = HfApi().dataset_info(repo, revision=revision or None, files_metadata=True)
        target = folder / f"{repo.replace('/', '--')}-{str(info.sha)[:12]}.parquet"
        if not target.is_file():
            _fetch(info, target)
    except (OSError, ValueError, httpx2.HTTPError, DatasetsError) as error:
        if faults.is_of_disk(error):
            rule = "cannot be kept: the folder for what is fetched cannot be written"
            raise DataError(name, rule, str(folder), "Free some space, or set LORAFIT_CACHE") from error
        first_line = (str(error).splitlines() or [""])[0]
        way_out = "Check its name and the connection, or name a file on this machine"
        raise DataError(name, "cannot be fetched from the Hub", first_line or type(error).__name__, way_out) from error
    return target


def _fetch(info: DatasetInfo, target: Path) -> None:
    """Write the rows as they come, and name the file only when it is whole."""
    size = sum(file.size or 0 for file in info.siblings or ())
    files.require_space(target.parent, size, f"the data set {info.id}")
    disable_progress_bars()
    scratch = target.with_suffix(".part")
    try:
        load_dataset(info.id, split=_SPLIT, revision=info.sha, streaming=True).to_parquet(scratch)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


@door
def main(arguments: Sequence[str]) -> int:
    """Fetch one data set and print its file; return the exit status."""
    name, folder = arguments
    sys.stdout.write(f"{fetched(name, Path(folder))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
