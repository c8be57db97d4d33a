"""The GPUs that people fine-tune on, found by name or by memory alone."""

import difflib
import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from specs import GIB, CatalogError, GpuSpec
from specs.paths import assets

_MEMORY = re.compile(r"(\d{1,5}(?:\.\d{1,6})?)\s*(?:g|gb|gib)")
_WORD = re.compile(r"\d+(?:\.\d+)? ?gi?b|[a-z]+\d*[a-z]*|\d+[a-z]*")

# The share of its memory that a card gives to CUDA, where it was not measured: the smallest seen on a card without ECC,
# 15,825 of 16,384 MiB on an RTX 5060 Ti under Linux; assets/gpus.json says how the shipped cards were treated.
_USABLE_SHARE = 0.965


def names() -> tuple[str, ...]:
    """Return the names of all shipped cards."""
    return tuple(_gpus())


def find(text: str) -> GpuSpec:
    """Return the card that a person means: a name, enough words to identify it, or a memory size such as 24GB.

    Raises:
        CatalogError: If no card or several cards match; the message offers the nearest names.
    """
    wanted = text.strip().lower()
    memory = _MEMORY.fullmatch(wanted)
    if memory is not None:
        return of_memory(float(memory[1]))
    found = _matching(wanted)
    if len({spec.memory_bytes for spec in found}) == 1:
        return min(found, key=lambda spec: spec.memory_bandwidth_gb_s or 0)
    if found:
        listed = ", ".join(spec.name for spec in found[:5])
        raise CatalogError("gpu", f"matches several cards ({listed})", text, "Name one of them")
    if re.fullmatch(r"[\d.]+", wanted):
        way_out = f'Write "{wanted} GB" for any card of that size'
        raise CatalogError("gpu", "is no card's number, and a memory size needs its unit", text, way_out)
    close = difflib.get_close_matches(wanted, [name.lower() for name in _gpus()], n=3, cutoff=0.5)
    nearest = [name for name in _gpus() if name.lower() in close]
    offered = f" (nearest: {', '.join(nearest)})" if nearest else ""
    raise CatalogError(
        "gpu", f"is not in the catalog{offered}", text, 'Give a card such as "RTX 4090", or its memory such as 24GB'
    )


def matching(text: str) -> tuple[str, ...]:
    """Return the cards that a text may mean, such as the variants of a ``3060``; those whose names say least more."""
    return tuple(spec.name for spec in _matching(text.strip().lower()))


def of_memory(gib: float) -> GpuSpec:
    """Return a generic card with this much memory: CUDA, and recent enough to compute in bfloat16.

    Raises:
        CatalogError: If no card has so little or so much memory.
    """
    if not 1 <= gib <= 4096:
        raise CatalogError("GPU memory", "must lie between 1 and 4,096 GiB", gib)
    like = _nearest_in_memory(gib)
    rates = [spec.half_tflops for spec in like if spec.half_tflops]
    return GpuSpec(
        name=f"any card with {gib:g} GiB",
        backend="cuda",
        memory_bytes=round(gib * GIB),
        usable_bytes=round(gib * GIB * _USABLE_SHARE),
        compute_capability=(8, 0),
        bf16=True,
        half_tflops=_middle(rates),
        float32_tflops=_middle([spec.float32_tflops for spec in like if spec.float32_tflops]),
        throughput_spread=math.sqrt(max(rates) / min(rates)),
        memory_bandwidth_gb_s=_middle([spec.memory_bandwidth_gb_s for spec in like if spec.memory_bandwidth_gb_s]),
        bus=min((spec.bus for spec in like), key=_bus_rate),
        form="other",
        source="memory as given, 3.5% kept by the driver; assumed to be an NVIDIA card of Ampere or later; "
        "speed midway between the slowest and fastest, and bus the slowest, "
        f"of {', '.join(spec.name for spec in like)}",
    )


def of_driver(name: str, total_bytes: int) -> GpuSpec | None:
    """Return the card that a driver reports under a name such as ``NVIDIA A100-SXM4-80GB``; None if none is known.

    Most driver names leave out the memory: among cards with the same name, the one nearest in memory is taken.
    """
    plain = _plain(name)
    found = [spec for spec in _gpus().values() if plain in _driver_names()[spec.name]]
    return min(found, key=lambda spec: abs(spec.memory_bytes - total_bytes), default=None)


def of_maker(name: str, backend: str, total_bytes: int) -> GpuSpec | None:
    """Return the card that another maker's tool lists under a name; None if none is known with about its memory."""
    own = [spec for spec in _gpus().values() if spec.backend == backend]
    own = [spec for spec in own if _plain(name) in _driver_names()[spec.name]]
    near = [spec for spec in own if abs(spec.memory_bytes - total_bytes) <= spec.memory_bytes / 10]
    return min(near, key=lambda spec: abs(spec.memory_bytes - total_bytes), default=None)


def _nearest_in_memory(gib: float) -> tuple[GpuSpec, ...]:
    """Return the NVIDIA cards with bfloat16 whose memory is nearest to this."""
    able = [
        spec
        for spec in _gpus().values()
        if spec.backend == "cuda" and spec.bf16 and spec.form != "other" and spec.half_tflops
    ]
    nearest = min((spec.memory_bytes / GIB for spec in able), key=lambda size: abs(math.log(size / gib)))
    return tuple(spec for spec in able if spec.memory_bytes / GIB == nearest)


def _bus_rate(bus: str) -> float:
    """Return what a bus exchanges, for an order."""
    generation, _, lanes = bus.removeprefix("PCIe ").partition(" x")
    return 2 ** float(generation) * float(lanes)


def _middle(rates: Sequence[float]) -> float:
    """Return the geometric mean of the slowest and the fastest."""
    return math.sqrt(min(rates) * max(rates))


@functools.lru_cache(maxsize=256)
def _matching(wanted: str) -> list[GpuSpec]:
    """Return the cards whose names contain every word of a text, with the fewest other words."""
    asked = _words(wanted)
    other: dict[str, int] = {}
    for name in _gpus():
        own = _words(name.lower())
        words = _with_unit(asked, own)
        if words and words <= own:
            other[name] = len(own - words)
    fewest = min(other.values(), default=0)
    return [_gpus()[name] for name, rest in other.items() if rest == fewest]


def _with_unit(asked: frozenset[str], own: frozenset[str]) -> frozenset[str]:
    """Return the asked words, with a card's own memory where its number stands beside a name, such as ``3060 12``."""
    if len(asked) == 1:
        return asked
    return frozenset(f"{word}gb" if word not in own and f"{word}gb" in own else word for word in asked)


def _words(text: str) -> frozenset[str]:
    text = re.sub(r"\b(geforce|rtx|gtx|rx|arc|tesla)(?=[\da-z])", r"\1 ", text)
    found = _WORD.findall(text.replace("-", " "))
    return frozenset(re.sub(r" ?gi?b$", "gb", word) for word in found) - {"nvidia", "amd", "intel"}


def _plain(name: str) -> str:
    """Return a card's name without what drivers and the catalog write differently: maker, spaces, ``GPU``."""
    return re.sub(r"nvidia|\bgpu\b|[\s-]", "", name.lower())


@functools.cache
def _entries() -> Mapping[str, Mapping[str, Any]]:
    loaded = json.loads((assets() / "gpus.json").read_text(encoding="utf-8"))["gpus"]
    return {entry["name"]: entry for entry in loaded}


@functools.cache
def _gpus() -> Mapping[str, GpuSpec]:
    return {name: _spec(entry) for name, entry in _entries().items()}


@functools.cache
def _driver_names() -> Mapping[str, frozenset[str]]:
    """Return what drivers may call each card: its name with and without the memory, or those the catalog lists."""
    short = {name: re.sub(r" \d+ GB$", "", name) for name in _entries()}
    return {
        name: frozenset(map(_plain, (name, short[name], *entry.get("driver_names", ()))))
        for name, entry in _entries().items()
    }


def _spec(entry: Mapping[str, Any]) -> GpuSpec:
    capability = entry.get("compute_capability")
    source = f"{entry['source']}; usable bytes: {entry['usable_source']}"
    if "tflops_kind" in entry:
        source += f"; TFLOP/s ({entry['tflops_kind']}): {entry['tflops_source']}"
    return GpuSpec(
        name=entry["name"],
        backend=entry["backend"],
        memory_bytes=entry["memory_bytes"],
        usable_bytes=entry["usable_bytes"],
        compute_capability=(capability[0], capability[1]) if capability else None,
        architecture=entry["architecture"],
        bf16=entry["bf16"],
        half_tflops=entry.get("half_tflops"),
        float32_tflops=entry.get("float32_tflops"),
        memory_bandwidth_gb_s=entry.get("memory_bandwidth_gb_s"),
        bus=entry.get("bus", ""),
        form=entry["form"],
        source=source,
    )
