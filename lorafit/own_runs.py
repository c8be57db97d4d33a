"""What this machine's own runs used beyond their prediction: the CUDA context, other processes, fragmentation. Pure."""

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from trainer.runs.contract import Run, State

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
"""Runs with other versions of these say nothing of the next one."""
_RUNS = 5
"""Runs that are learned from, the newest."""
_MOST_SHARE = 0.15
"""Share of a prediction beyond which a difference shows a fault or a guest on the card rather than the card: twice the
worst error of used memory over the rows of assets/measured."""


def learned_bytes(runs: Iterable[Run], device: str, versions: Mapping[str, str]) -> int:
    """Return the bytes that finished runs on a device used beyond their prediction, the median of the newest.

    Negative if they used less. Runs that were divided over several devices do not count.

    Args:
        runs: All runs.
        device: Torch's name of the device.
        versions: The versions of ``LIBRARIES`` that the next run will have.
    """
    finished = sorted((run for run in runs if _counts(run, device, versions)), key=lambda run: run.created_at)
    found = [_difference(run.estimate or {}, run.measured) for run in finished]
    return round(median(found[-_RUNS:])) if found else 0


def _counts(run: Run, device: str, versions: Mapping[str, str]) -> bool:
    had = run.details.get("libraries") or {}
    return (
        run.state is State.FINISHED
        and run.place.device == device
        and bool((run.estimate or {}).get("used_bytes"))
        and bool(run.measured.get("peak_used_bytes"))
        and all(had.get(name) == version for name, version in versions.items())
    )


def _difference(estimate: Mapping[str, Any], measured: Mapping[str, Any]) -> int:
    """Return measured less predicted bytes, without what the prediction had learned already, within bounds."""
    predicted = int(estimate["used_bytes"]) - int(estimate.get("own_bytes", 0))
    most = int(_MOST_SHARE * predicted)
    return max(-most, min(most, int(measured["peak_used_bytes"]) - predicted))
