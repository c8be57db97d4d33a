"""Measures what the estimator predicts: trains a plan for a few steps in its own process and returns a row."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TextIO

from catalog import gpus, machine
from catalog.machine import Device
from estimator.accuracy.comparison import COLUMNS, OWN, RAN_OUT, settings
from specs import MIB, FinetunePlan, GpuSpec, ModelSpec, RunError
from specs.launch import device_environment
from specs.paths import REPO

STEPS = 3
"""The first step creates the optimizer states; the second and third run with them."""

TIMEOUT_SECONDS = 1800.0
"""Longer than a 70B model takes to be quantized and trained for three steps."""

CPU = "CPU"
"""The card name in rows that were measured in RAM, on any CPU."""


def device_to_measure(wanted: str) -> Device:
    """Return the device to measure on.

    Raises:
        RunError: If a card is wanted and this machine has none.
    """
    found = machine.devices()[0]
    if wanted == "cpu":
        return machine.processor()
    if found.gpu.backend != "cuda":
        way_out = "Run it on a machine with a card, or give --device cpu to measure RAM instead"
        raise RunError("measure", "needs an NVIDIA card that CUDA can use", "none", way_out)
    return found


def measure(plan: FinetunePlan, model: ModelSpec, device: Device) -> dict[str, Any]:
    """Train a plan for a few steps on a device; return its peaks, even if memory runs out.

    Raises:
        RunError: If the training ends with another error.
    """
    place = "cpu" if device.gpu.is_cpu else f"cuda:{device.index}"
    request = {
        "plan": replace(plan, max_steps=STEPS).to_dict(),
        "config": model.config,
        "device": "cpu" if device.gpu.is_cpu else "cuda:0",  # the only GPU that the process sees
    }
    before = _used_bytes(device)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.worker.measuring"],
            cwd=REPO,
            env=device_environment(place, os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        )
        timer = threading.Timer(TIMEOUT_SECONDS, process.kill)
        timer.start()
        try:
            answer = _answer(process, request, errors)
            if "returned_bytes" in answer:
                answer["used_bytes"] = _used_bytes(device) - before + answer["returned_bytes"]
        finally:
            timer.cancel()
            process.kill()
            process.communicate()
    if "error" in answer:
        raise RunError("measure", "could not train this plan", answer["error"])
    return answer


def _answer(process: "subprocess.Popen[str]", request: Mapping[str, Any], errors: TextIO) -> dict[str, Any]:
    """Return the answer of a measuring process, which keeps its memory until it is killed."""
    if process.stdin is None or process.stdout is None:
        return {"error": "the process has no pipes"}
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if line:
        found: dict[str, Any] = json.loads(line)
        return found
    if process.wait() < 0:
        return {"ran_out": "the system killed the process, as it does when RAM runs out", "phases": {}}
    errors.seek(0)
    return {"error": (errors.read().strip().splitlines() or ["it ended without an answer"])[-1]}


def row(plan: FinetunePlan, model: str, device: Device, found: Mapping[str, Any]) -> dict[str, str]:
    """Return a measured row: the plan in the schema's columns, and its measurements."""
    ran_out = found.get("ran_out")
    phases = ", ".join(f"{name} {size / MIB:.2f}" for name, size in found["phases"].items())
    kind = "allocated" if device.gpu.backend == "cuda" else "resident"
    measured = () if ran_out else ("max_memory_allocated_bytes", "max_memory_reserved_bytes", "used_bytes")
    return {
        **settings(plan),
        "source": f"{OWN}python -m estimator measure, {datetime.now(UTC):%Y-%m-%d}",
        "gpu": _name(device),
        "model": model,
        "padding": "none",
        "expandable_segments": str("expandable_segments:True" in found.get("allocator", "")).lower(),
        **{name: str(found[name]) for name in measured if name in found},
        "versions": found.get("versions", ""),
        "notes": f"{RAN_OUT}: {ran_out}" if ran_out else f"{kind} MiB at the peak of {phases}",
    }


def appended(text: str, entry: Mapping[str, str]) -> str:
    """Return a CSV of measured rows with one row added, and a header if it was empty."""
    written = io.StringIO()
    table = csv.DictWriter(written, COLUMNS, restval="", lineterminator="\n")
    if not text:
        table.writeheader()
    table.writerow(entry)
    return text + ("" if not text or text.endswith("\n") else "\n") + written.getvalue()


def is_measured(text: str, plan: FinetunePlan, model: str, device: Device) -> bool:
    """Return whether a CSV already has a row for this plan, model and card."""
    wanted = settings(plan)
    entries = csv.DictReader(io.StringIO(text))
    return any(
        (entry.get("gpu"), entry.get("model")) == (_name(device), model)
        and all(entry.get(name) == value for name, value in wanted.items())
        for entry in entries
    )


def device_of_row(name: str) -> GpuSpec:
    """Return the device that a measured row names.

    Raises:
        CatalogError: If the catalog has no such card.
    """
    return machine.processor().gpu if name == CPU else gpus.find(name)


def _name(device: Device) -> str:
    return CPU if device.gpu.is_cpu else device.gpu.name


def _used_bytes(device: Device) -> int:
    """Return what the card's driver has handed out so far; 0 for a CPU."""
    if device.gpu.is_cpu:
        return 0
    now = machine.devices()[device.index]
    return now.total_bytes - now.free_bytes
