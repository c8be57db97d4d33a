"""What leaves this machine must not name a place on it."""

from pathlib import Path


def files_naming(folder: Path, *places: Path | str | None) -> list[str]:
    """Return the files under a folder that hold the path of one of some places, in whatever form."""
    sought = [str(place).encode() for place in places if place is not None]
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path.name for path in files if any(place in path.read_bytes() for place in sought)]
