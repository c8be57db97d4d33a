"""This machine's GPUs of other makers than NVIDIA: AMD's, Intel's and Apple's, as their own tools list them.

Untried on such machines: what is read here was published by their owners.
"""

import functools
import json
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from specs.gpu import Backend

_FRESH_SECONDS = 5
"""How long a tool's answer is kept: asking takes a part of a second, and a page asks at each change."""
_TOOL_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Found:
    """A GPU as its maker's tool lists it."""

    backend: Backend
    name: str
    index: int
    total_bytes: int
    free_bytes: int


def found() -> tuple[Found, ...]:
    """Return this machine's GPUs of one of the other makers; AMD's first, as nobody has two kinds for training."""
    return _found(int(time.monotonic() // _FRESH_SECONDS))


@functools.lru_cache(maxsize=1)
def _found(_moment: int) -> tuple[Found, ...]:
    for those in (_amd, _intel, _apple):
        if gpus := tuple(those()):
            return gpus
    return ()


def _amd() -> Iterator[Found]:
    yield from amd(_said(["rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"]))


def amd(text: str) -> Iterator[Found]:
    """Yield the cards that rocm-smi lists as JSON; a processor's own graphics, which cannot train, are left out.

    Source:
        Its output for a Radeon RX 7900 XT, https://github.com/marimo-team/marimo/issues/9237.
    """
    cards = _mapping(text)
    for key in sorted(cards, key=_number):
        facts = cards[key] if isinstance(cards[key], Mapping) else {}
        total, used = _bytes(facts, "VRAM Total Memory (B)"), _bytes(facts, "VRAM Total Used Memory (B)")
        named = facts.get("Card Series") or facts.get("Card series") or ""
        # Older tools write the chip before the name: "Navi 21 [Radeon RX 6800 XT]".
        bracketed = re.search(r"\[(.+)\]", str(named))
        if re.fullmatch(r"card\d+", key) and total >= 1 << 30:
            name = bracketed[1] if bracketed else str(named)
            yield Found("rocm", name or "AMD GPU", _number(key), total, max(total - used, 0))


def _intel() -> Iterator[Found]:
    listed = _mapping(_said(["xpu-smi", "discovery", "-j"])).get("device_list")
    for number in range(len(listed) if isinstance(listed, Sequence) else 0):
        yield from intel(_said(["xpu-smi", "discovery", "-d", str(number), "-j"]), number)


def intel(text: str, index: int) -> Iterator[Found]:
    """Yield the card that xpu-smi describes as JSON.

    Source:
        Names of its fields: ``device_name`` and ``memory_physical_size_byte``, https://github.com/intel/xpumanager.
    """
    facts = _mapping(text)
    total = _bytes(facts, "memory_physical_size_byte")
    if total:
        name = re.sub(r"\((?:R|TM)\)|\bIntel\b|\bGraphics\b", "", str(facts.get("device_name", "")))
        free = _bytes(facts, "memory_free_size_byte") or total
        yield Found("xpu", re.sub(r"\s+", " ", name).strip() or "Intel GPU", index, total, min(free, total))


def _apple() -> Iterator[Found]:
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return
    memory = psutil.virtual_memory()
    name = _said(["sysctl", "-n", "machdep.cpu.brand_string"]).strip()
    yield Found("mps", name or "Apple GPU", 0, memory.total, min(memory.available, memory.total))


def _said(command: Sequence[str]) -> str:
    """Return what a maker's tool prints; empty if there is none, or it fails."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, check=True, timeout=_TOOL_SECONDS, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _mapping(text: str) -> Mapping[str, Any]:
    try:
        loaded = json.loads(text[text.index("{") :])  # rocm-smi prints warnings before
    except (ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _bytes(facts: Mapping[str, Any], name: str) -> int:
    value = str(facts.get(name, ""))
    return int(value) if value.isdecimal() and len(value) <= 15 else 0


def _number(key: str) -> int:
    digits = re.sub(r"\D", "", key)[:6]
    return int(digits) if digits else 0
