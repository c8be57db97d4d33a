"""The devices of this machine: NVIDIA cards, read through NVML, or another maker's, or else its CPU and RAM.

Creates no CUDA context.
"""

import functools
import importlib.util
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pynvml

from catalog import gpus, others
from specs import GpuSpec

# CPUs with one of these units multiply in bfloat16; others emulate it, slower than float32.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})

# 32-bit operations per core and cycle with the widest unit: two multiply-adds of 16, 8 or 4 numbers.
# https://en.wikichip.org/wiki/flops
_FLOPS_PER_CYCLE = (("avx512f", 64), ("avx2", 32))
_FLOPS_PER_CYCLE_AT_LEAST = 16
# Some of those cores have only one such unit, and the clock varies by as much under load.
_CPU_SPREAD = 2.0

# NVML's total includes what the driver keeps: T4 15,360 MiB listed and 15,095 usable, RTX 4090 24,564 and 24,080.
_SHARE_OF_NVML_TOTAL = 0.98

# Metal's recommendedMaxWorkingSetSize: 2/3 of 16 GiB on an M1 Pro, as assets/gpus.json says.
_APPLE_SHARE = 2 / 3

# The memory limit of the container, if this runs in one.
_AMD_DRIVER = Path("/dev/kfd")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device of this machine, in its current state."""

    gpu: GpuSpec
    """The device; ``usable_bytes`` is at most what the driver reports here."""
    index: int
    """Its number, as in ``cuda:0``."""
    total_bytes: int
    free_bytes: int

    @property
    def torch_name(self) -> str:
        """The name torch uses: ``cpu``, ``mps``, ``cuda:0``; torch calls AMD cards ``cuda`` too."""
        if self.gpu.backend in {"cpu", "mps"}:
            return self.gpu.backend
        return f"{self.gpu.backend.replace('rocm', 'cuda')}:{self.index}"


def devices() -> tuple[Device, ...]:
    """Return this machine's NVIDIA cards, or those of another maker, or its CPU if it has none."""
    try:
        with _nvml():
            cards = tuple(_card(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        cards = ()
    return cards or tuple(map(of_another_maker, others.found())) or (processor(),)


def compute_capabilities() -> tuple[tuple[int, int] | None, ...] | None:
    """Return those of this machine's GPUs, one each; None if it has GPUs that NVML does not list, as AMD's."""
    found = tuple(device.gpu.compute_capability for device in devices() if not device.gpu.is_cpu)
    return found if found or not _AMD_DRIVER.exists() else None


@contextmanager
def _nvml() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _card(index: int) -> Device:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    gpu = detected(name if isinstance(name, str) else name.decode(), memory.total, (major, minor))
    gpu = replace(gpu, recurrent_packages=recurrent_packages())
    return Device(gpu=gpu, index=index, total_bytes=memory.total, free_bytes=memory.free)


def detected(name: str, total_bytes: int, compute_capability: tuple[int, int]) -> GpuSpec:
    """Return a card as its driver reports it, with the catalog's figures if it is listed there."""
    known = gpus.of_driver(name, total_bytes)
    if known is not None and total_bytes <= known.memory_bytes:
        usable = min(total_bytes, known.usable_bytes)
        return replace(known, usable_bytes=usable, source=f"NVML on this machine; {known.source}")
    return GpuSpec(
        name=re.sub(r"^NVIDIA ", "", name),
        memory_bytes=total_bytes,
        usable_bytes=round(total_bytes * _SHARE_OF_NVML_TOTAL),
        compute_capability=compute_capability,
        bf16=compute_capability >= (8, 0),
        form="other",
        source="NVML on this machine; 2% of the total kept by the driver",
    )


def of_another_maker(found: others.Found) -> Device:
    """Return a GPU of another maker, with the catalog's figures if it is listed there."""
    known = gpus.of_maker(found.name, found.backend, found.total_bytes)
    told = "this machine's own tool, untried on such a machine"
    if known is not None:
        usable = min(found.total_bytes, known.usable_bytes)
        gpu = replace(
            known, usable_bytes=usable, recurrent_packages=recurrent_packages(), source=f"{told}; {known.source}"
        )
    else:
        gpu = GpuSpec(
            name=found.name,
            backend=found.backend,
            memory_bytes=found.total_bytes,
            usable_bytes=round(found.total_bytes * (_APPLE_SHARE if found.backend == "mps" else _SHARE_OF_NVML_TOTAL)),
            bf16=True,
            form="other",
            source=told,
        )
    return Device(gpu=gpu, index=found.index, total_bytes=found.total_bytes, free_bytes=found.free_bytes)


def recurrent_packages() -> tuple[str, ...]:
    """Return the installed packages with kernels for recurrent layers, which transformers takes where it finds them."""
    return tuple(name for name in ("causal_conv1d", "fla", "mamba_ssm") if importlib.util.find_spec(name))


def processor() -> Device:
    """Return this machine's CPU with its RAM."""
    memory = psutil.virtual_memory()
    total = min(memory.total, _container_limit(_CGROUP_LIMIT) or memory.total)
    name, flags = _cpuinfo(Path("/proc/cpuinfo"))
    gpu = GpuSpec(
        name=name,
        backend="cpu",
        memory_bytes=total,
        usable_bytes=total,
        bf16=bool(flags & _BF16_FLAGS),
        float32_tflops=_processor_tflops(flags),
        throughput_spread=_CPU_SPREAD,
        form="other",
        source="the operating system of this machine; throughput: cores x clock x operations per cycle",
    )
    return Device(gpu=gpu, index=0, total_bytes=total, free_bytes=min(memory.available, total))


def _container_limit(path: Path) -> int | None:
    """Return the bytes that a container may use; None if there is no limit."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() and int(text) > 0 else None


@functools.cache
def _processor_tflops(flags: frozenset[str]) -> float | None:
    """Return the peak 32-bit TFLOP/s of the cores that this process may use; None if the clock is unknown."""
    clock = psutil.cpu_freq()
    if clock is None or not (clock.max or clock.current):
        return None
    cores = psutil.cpu_count(logical=False) or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    each = next((flops for flag, flops in _FLOPS_PER_CYCLE if flag in flags), _FLOPS_PER_CYCLE_AT_LEAST)
    return cores * each * (clock.max or clock.current) * 1e6 / 1e12


def _cpuinfo(path: Path) -> tuple[str, frozenset[str]]:
    """Return the CPU's name and instruction sets; without Linux's file, the name that Python knows."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    facts = dict(re.findall(r"^(model name|flags)\s*: (.*)$", text, flags=re.MULTILINE))
    name = facts.get("model name") or platform.processor() or platform.machine() or "CPU"
    return re.sub(r"\s+", " ", name), frozenset(facts.get("flags", "").split())
