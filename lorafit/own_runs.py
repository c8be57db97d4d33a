"""What this machine's own runs teach of a device: what they used beyond their prediction, and how long they took."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

from catalog.machine import Device
from estimator.duration import machine as own_speed
from specs import GpuSpec, LorafitError, paths
from trainer.runs.contract import Run, State
from trainer.runs.store import Store

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
"""Runs with other versions of these say nothing of the next one."""
_RUNS = 5
"""Runs that are learned from, the newest."""
_MOST_SHARE = 0.15
"""Share of a prediction beyond which a difference shows a fault or a guest on the card rather than the card: twice the
worst error of used memory over the rows of assets/measured."""


def taught(device: Device, runs: Iterable[Run]) -> GpuSpec:
    """Return a device of this machine with its measured speed, both corrected by what runs on it took.

    Args:
        device: The device.
        runs: All runs.
    """
    known = [run for run in runs if run.state is State.FINISHED and run.place.device == device.torch_name]
    known.sort(key=lambda run: run.created_at)
    own = learned_bytes(known, device.torch_name, versions())
    gpu = own_speed.with_curves(dataclasses.replace(device.gpu, own_bytes=own), device.torch_name)
    if gpu.measured is None:
        return gpu
    times = [((run.estimate or {}).get("time") or {}, run.measured.get("time") or {}) for run in known]
    return dataclasses.replace(gpu, measured=gpu.measured.corrected(own_speed.learned(times, on_cpu=gpu.is_cpu)))


def kept() -> tuple[Run, ...]:
    """Return all runs of this machine; none where the runs folder is not there or cannot be used."""
    try:
        return Store(paths.runs()).runs() if paths.runs().is_dir() else ()
    except (OSError, LorafitError):
        return ()  # whoever starts a run or lists them is told


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the versions of the libraries that decide the memory of a run; what is not installed has none."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


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
