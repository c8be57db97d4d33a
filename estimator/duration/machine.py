"""The curves of this machine: measured once, then kept by device and library versions."""

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from estimator.duration.measured import curves_from
from estimator.only_one import only_one
from specs import GpuSpec, LorafitError, SpecError
from specs.curves import Curves, is_positive
from specs.launch import device_environment
from specs.paths import REPO, cache, measures_itself

SECONDS = 8.0
"""How long a measurement may take, with the time to load the libraries."""
_LONGEST_SECONDS = 120.0
"""When a measurement on a machine that is too busy is given up."""
_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    LorafitError,
)
"""What an answer raises that is not as ``trainer.worker.calibrating`` gives it."""
MEASURED = "measured on this machine"
"""What a forecast rests on whose runs are learned from."""
_RUNS = 5
"""Runs that are learned from."""
_MOST = 2.0
"""Factor beyond which a run shows a fault rather than a speed."""
_started: set[str] = set()
_starting = threading.Lock()


def with_curves(gpu: GpuSpec, device: str | None) -> GpuSpec:
    """Return a device with the curves that were measured on it, if it is in this machine and was measured."""
    found = kept(gpu, device) if device and measures_itself() else None
    return dataclasses.replace(gpu, measured=found) if found else gpu


def learned(runs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]], *, on_cpu: bool) -> float:
    """Return by how many times as long as this machine's measurements say its finished runs took.

    Args:
        runs: Forecast and measured times of runs, oldest first; the last few count.
        on_cpu: Whether they trained on a CPU, where the processor time of a step counts: its wall clock depends on
            what else ran.
    """
    key = "worked_per_step" if on_cpu else "seconds_per_step"
    compared = [
        (taken.get(key), forecast.get("seconds_per_step"), forecast.get("corrected_by", 1.0))
        for forecast, taken in runs
        if forecast.get("basis") == MEASURED
    ]
    found = [t / s * by for t, s, by in compared if is_positive(t) and is_positive(s) and is_positive(by)]
    return min(max(median(found[-_RUNS:]), 1 / _MOST), _MOST) if found else 1.0


def kept(gpu: GpuSpec, device: str) -> Curves | None:
    """Return the curves of a device of this machine; None if it was not measured with these libraries.

    A damaged file counts as none, and so does one whose figures no device has.
    """
    file = _file(gpu)
    try:
        return _read(file, file.stat().st_mtime_ns, device)
    except _DAMAGE:
        return None


def calibrate(gpu: GpuSpec, device: str, *, waiting: Callable[[], None] | None = None) -> Curves:
    """Measure a device and keep its curves; two measurements at once would slow each other down, and take turns.

    Args:
        gpu: The device.
        device: Its name in torch.
        waiting: Called if another process measures it at this moment.

    Raises:
        SpecError: If the measurement ends without an answer.
        OSError: If the cache folder cannot be written.
    """
    with _turn(gpu, waiting or _silent) as part:
        return _calibrated(gpu, device, part)


@contextlib.contextmanager
def _turn(gpu: GpuSpec, waiting: Callable[[], None]) -> Iterator[Path]:
    """Wait until nobody else measures a device; yield the file to write to, which is known to be writable."""
    file = _file(gpu)
    file.parent.mkdir(parents=True, exist_ok=True)
    with only_one(file.with_suffix(".lock"), waiting):
        # One name: what a killed process was writing is overwritten. Only the owner of the lock writes.
        part = file.with_suffix(".part")
        part.touch()
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)


def _calibrated(gpu: GpuSpec, device: str, part: Path) -> Curves:
    try:
        found = json.loads(_answer(device))
        curves = curves_from(found, device)
    except (subprocess.SubprocessError, *_DAMAGE) as error:
        rule = f"could not be measured: {_reason(error)}"
        raise SpecError(f"{gpu.name}: its speed", rule, None, "Try again while little else runs") from error
    text = json.dumps({"device": gpu.name, **found})
    part.write_text(f"{_checksum(text)}\n{text}", encoding="utf-8")
    part.replace(_file(gpu))
    return curves


def _answer(device: str) -> str:
    command = [sys.executable, "-m", "trainer.worker.calibrating", device.partition(":")[0], str(SECONDS)]
    return subprocess.run(
        command,
        cwd=REPO,
        env=device_environment(device, os.environ),
        capture_output=True,
        text=True,
        timeout=_LONGEST_SECONDS,
        check=True,
    ).stdout


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it took longer than {_LONGEST_SECONDS:.0f} s"
    if not isinstance(error, subprocess.CalledProcessError):
        return f"its answer is unusable ({type(error).__name__})"
    if error.returncode < 0:
        return f"its process was ended by {signal.Signals(-error.returncode).name}"
    said = (error.stderr or "").strip().splitlines()
    return f"its process ended with {said[-1] if said else f'status {error.returncode}'}"


def in_background(gpu: GpuSpec, device: str, *, is_busy: Callable[[], bool]) -> None:
    """Measure a device once in the background, unless it was measured or something trains on it."""
    if not measures_itself():
        return
    with _starting:
        if gpu.name in _started or kept(gpu, device) is not None or is_busy():
            return
        _started.add(gpu.name)
    threading.Thread(target=_quietly, args=(gpu, device), daemon=True).start()


def _quietly(gpu: GpuSpec, device: str) -> None:
    """Measure a device, unless another process has done so meanwhile; what cannot be measured or kept is not."""
    with contextlib.suppress(SpecError, OSError), _turn(gpu, _silent) as part:
        if kept(gpu, device) is None:
            _calibrated(gpu, device, part)


def _silent() -> None:
    """Tell nobody what is waited for."""


@lru_cache(maxsize=16)
def _read(file: Path, _changed: int, device: str) -> Curves:
    checksum, _, text = file.read_text(encoding="utf-8").partition("\n")
    if checksum != _checksum(text):
        raise SpecError(str(file), "is damaged")
    return curves_from(json.loads(text), device)


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file(gpu: GpuSpec) -> Path:
    parts = [gpu.name, *(f"{name} {_version(name)}" for name in _LIBRARIES)]
    return cache() / "speed" / f"{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:16]}.json"


@lru_cache(maxsize=8)
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
