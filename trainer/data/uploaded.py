"""What is noted beside an uploaded file: the name that its person gave it, and the roles of its columns."""

import json
from pathlib import Path


def name_of(path: Path) -> str:
    """Return the original name of an upload; of any other file its own."""
    name = noted(path, "name")
    return name if isinstance(name, str) else path.name


def noted(path: Path, what: str) -> object:
    """Return what was noted beside an upload; None if nothing was or it cannot be read."""
    try:
        return json.loads(path.with_suffix(f".{what}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
