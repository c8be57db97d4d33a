"""What a device holds besides PyTorch's tensors: the CUDA context and cuBLAS workspaces."""

from dataclasses import dataclass
from typing import Literal

from specs import GIB, MIB, GpuSpec

Confidence = Literal["high", "medium", "low"]

_FITCHECK = (
    "github Anassbzdd/fitcheck data/measurements, 17 runs of 2026-09, torch 2.10 and 2.14: nvidia-smi minus reserved"
)
_MESSAGE = (
    "PyTorch's out-of-memory message as quoted in public reports, read 2026-11-22: memory in use by the process, minus "
    "what PyTorch has allocated, minus what it holds unallocated, each rounded to 10 MiB; the total identifies the card"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The CUDA context of one process on one card, as measured or reported."""

    card: str
    """The card's name in the catalog, or what is known about it."""
    compute_capability: tuple[int, int]
    memory_gib: int
    num_bytes: int
    """The context."""
    is_measured: bool
    """Whether the context itself was measured, and not calculated from a message."""
    source: str


def _measured(card: str, capability: tuple[int, int], memory_gib: int, context_mib: float, source: str) -> Reading:
    return Reading(
        card=card,
        compute_capability=capability,
        memory_gib=memory_gib,
        num_bytes=round(context_mib * MIB),
        is_measured=True,
        source=source,
    )


def _message(
    card: str, capability: tuple[int, int], memory_gib: int, in_use: float, allocated: float, unallocated_mib: float
) -> Reading:
    return Reading(
        card=card,
        compute_capability=capability,
        memory_gib=memory_gib,
        num_bytes=round((in_use - allocated) * GIB - unallocated_mib * MIB),
        is_measured=False,
        source=_MESSAGE,
    )


READINGS = (
    _message("12 GB Pascal card", (6, 0), 12, 11.51, 11.18, 219.44),
    _message("Tesla V100 SXM2 32 GB", (7, 0), 32, 31.72, 29.66, 1720.0),
    _message("Tesla V100 SXM2 32 GB", (7, 0), 32, 16.95, 2.10, 14807.0),
    _measured("Tesla T4", (7, 5), 16, 141, _FITCHECK),
    _message("A100 SXM4 80 GB", (8, 0), 80, 42.49, 42.00, 12.66),
    _message("A100 SXM4 80 GB", (8, 0), 80, 78.93, 76.28, 2191.0),
    _message("A100 SXM4 80 GB", (8, 0), 80, 58.31, 51.75, 6195.0),
    _message("A100 SXM4 40 GB", (8, 0), 40, 39.19, 38.61, 102.73),
    _message("GeForce RTX 3060 12 GB", (8, 6), 12, 10.74, 10.48, 16.25),
    _message("GeForce RTX 3090", (8, 6), 24, 19.40, 17.97, 1044.0),
    _message("GeForce RTX 3090", (8, 6), 24, 11.79, 11.44, 43.59),
    _message("GeForce RTX 3090", (8, 6), 24, 23.49, 23.24, 1.17),
    _message("RTX A6000", (8, 6), 48, 35.50, 33.99, 1219.0),
    _message("RTX A6000", (8, 6), 48, 1.49, 1.02, 164.03),
    _message("8 GB Ada or Ampere card", (8, 9), 8, 7.52, 7.29, 74.34),
    _message("L4", (8, 9), 24, 21.96, 21.65, 66.83),
    _message("L4", (8, 9), 24, 22.01, 21.62, 135.82),
    _message("GeForce RTX 4090", (8, 9), 24, 23.26, 22.19, 656.69),
    _message("L40S", (8, 9), 48, 44.28, 43.70, 69.68),
    _message("L40S", (8, 9), 48, 44.36, 36.83, 7199.0),
    _message("H100 SXM5 80 GB", (9, 0), 80, 79.08, 77.69, 674.48),
    _message("H200 SXM 141 GB", (9, 0), 141, 139.60, 138.14, 824.86),
    _message("H200 SXM 141 GB", (9, 0), 141, 139.20, 2.05, 139919.0),
    _message("B200", (10, 0), 180, 168.34, 167.64, 4.62),
    _message("GeForce RTX 5090", (12, 0), 32, 31.29, 30.80, 2.80),
    _message("GeForce RTX 5090", (12, 0), 32, 15.90, 13.41, 2089.0),
)
"""What single processes took on each generation of cards; more on cards with more multiprocessors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What nvidia-smi shows for a training process beyond PyTorch's reserved memory."""

    num_bytes: int
    confidence: Confidence
    """high: measured on this card; medium: reported for this card; low: from a similar one."""
    source: str


def context(gpu: GpuSpec) -> Context:
    """Return the CUDA context of a training process on a device.

    If a card has several readings, the largest counts: a process that trains loads more kernels than one that only
    loads a model. A card without readings takes that of the card of its generation with the nearest memory size.
    """
    if gpu.is_cpu:
        return Context(num_bytes=0, confidence="high", source="a CPU has no CUDA context")
    on_card = [reading for reading in READINGS if reading.card == gpu.name]
    alike = on_card or _of_generation(gpu)
    if not alike:
        return Context(num_bytes=_USUAL_BYTES, confidence="low", source=f"median of all cards; {_MESSAGE}")
    largest = max(alike, key=lambda reading: reading.num_bytes)
    measured: Confidence = "high" if largest.is_measured else "medium"
    source = largest.source if on_card else f"{largest.card}; {largest.source}"
    return Context(num_bytes=largest.num_bytes, confidence=measured if on_card else "low", source=source)


def context_bytes(gpu: GpuSpec) -> int:
    """Return the bytes of the context on a device."""
    return context(gpu).num_bytes


def _of_generation(gpu: GpuSpec) -> list[Reading]:
    """Return the readings of a card's generation that are nearest to its memory; equally near ones all count."""
    major = (gpu.compute_capability or (0, 0))[0]
    generation = [reading for reading in READINGS if reading.compute_capability == gpu.compute_capability] or [
        reading for reading in READINGS if reading.compute_capability[0] == major
    ]
    distance = {id(reading): abs(reading.memory_gib * GIB - gpu.memory_bytes) for reading in generation}
    nearest = min(distance.values(), default=0)
    return [reading for reading in generation if distance[id(reading)] == nearest]


_USUAL_BYTES = sorted(reading.num_bytes for reading in READINGS)[len(READINGS) // 2]

# aten/src/ATen/cuda/CublasHandlePool.cpp, parseChosenWorkspaceSize (torch 2.13): :4096:2:16:8, and 32 MiB from Hopper
# on; on ROCm 32 MiB, and 128 MiB on gfx94x and gfx95x, which are CDNA 3 and later.
_CUBLAS_WORKSPACE_BYTES = (2 * 4096 + 8 * 16) * 1024
_CUBLAS_WORKSPACE_BYTES_HOPPER = 32 * MIB
_HIPBLAS_WORKSPACE_BYTES_CDNA3 = 128 * MIB
CUBLAS_WORKSPACES = 2
"""One for the main thread and one for autograd's; seen as a constant 16.25 MiB in the T4 runs of Anassbzdd/fitcheck."""

# Resident memory of a worker before it holds a tensor: 483 MiB with torch 2.13.0, transformers 5.23.0, peft 0.21.2,
# bitsandbytes 0.50.2, trl 1.16.0 and datasets 5.2.0 imported under Python 3.11 (psutil, 2026-11-22), plus what
# the trainer adds.
_WORKER_BYTES = GIB // 2


def cublas_workspace_bytes(gpu: GpuSpec) -> int:
    """Return the bytes of one cuBLAS workspace, or of its counterpart on other backends."""
    if gpu.backend == "rocm":
        return (
            _HIPBLAS_WORKSPACE_BYTES_CDNA3
            if gpu.architecture in {"CDNA 3.0", "CDNA 4.0"}
            else _CUBLAS_WORKSPACE_BYTES_HOPPER
        )
    if gpu.backend != "cuda":
        return 0
    hopper = gpu.compute_capability is not None and gpu.compute_capability >= (9, 0)
    return _CUBLAS_WORKSPACE_BYTES_HOPPER if hopper else _CUBLAS_WORKSPACE_BYTES


def worker_bytes() -> int:
    """Return the host memory of a worker process before it holds a tensor."""
    return _WORKER_BYTES
