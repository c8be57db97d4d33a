"""What estimates have left in the cache, and what removing it costs."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median

from estimator.duration.machine import SECONDS
from estimator.tape.library import stamp
from specs.paths import cache
from specs.taken import Taken, taken


def kept() -> list[Taken]:
    """Return what is kept of estimates, by kind: recorded steps, those of other versions, and speeds."""
    steps, speeds = _folders(), sorted((cache() / "speed").glob("*.json"))
    now = [
        file
        for folder in steps
        if folder.name == stamp()
        for ending in ("tape", "json")
        for file in folder.glob(f"*.{ending}")
    ]
    others = [folder for folder in steps if folder.name != stamp()]
    each = f", in {seconds:.1f} s each" if (seconds := _seconds(now)) else ""
    return [
        taken("tapes", "Recorded training steps, for estimates", sorted(now), f"Recorded again when needed{each}."),
        taken(
            "old-tapes",
            "Recorded training steps of other versions",
            others,
            "Not needed, unless such a version is used again.",
        ),
        taken(
            "speeds",
            "Measured speeds of devices",
            speeds,
            f"Measured again when needed, in about {SECONDS:.0f} s each.",
        ),
    ]


def _folders() -> list[Path]:
    """Return the folders of tapes and layers, one for each version of what records them."""
    return sorted(one for name in ("tapes", "layers") for one in (cache() / name).glob("*") if one.is_dir())


def _seconds(files: list[Path]) -> float | None:
    """Return how long recording a step took on this machine, in the middle; None if it cannot be told."""
    found = [seconds for file in files for seconds in _taken_by(file) if seconds > 0]
    return median(found) if found else None


def _taken_by(file: Path) -> Iterator[float]:
    """Yield the seconds from when the lock of a tape was taken to when the tape was written."""
    with suppress(OSError):
        yield file.stat().st_mtime - file.with_suffix(".lock").stat().st_mtime
