"""The device a run uses: a graphics card, or the CPU with its RAM."""

import re
from dataclasses import dataclass
from typing import Literal

from specs.curves import Curves
from specs.errors import SpecError

_PCIE = re.compile(r"PCIe ([345])\.0 x(\d{1,2})")
_LANE_BYTES_PER_SECOND = {"3": 8e9 * 128 / 130 / 8, "4": 16e9 * 128 / 130 / 8, "5": 32e9 * 128 / 130 / 8}
"""Of one lane in one direction: 8, 16 and 32 GT/s, 128 of 130 bits; PCI-SIG, PCI Express base specifications."""
_REACHED = 0.77
"""Share that copies between pinned memory and a card reach: 12.15 of 15.75 GB/s, bandwidthTest on a Tesla P100 PCIe,
https://github.com/mpicbg-scicomp/gearshifft/pull/82. An A10 reached 0.62: github drkennetz/cuda_examples pull 1."""

Backend = Literal["cuda", "rocm", "xpu", "mps", "cpu"]

WITHOUT_8BIT_OPTIMIZERS: frozenset[str] = frozenset({"mps"})
"""Backends whose 8-bit and paged optimizers bitsandbytes only plans; LLM.int8() and QLoRA run on all of them.
Source: bitsandbytes 0.50.0, README.md, accelerator support."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpec:
    """Facts about one device that decide what fits on it and how fast it is."""

    name: str
    """The manufacturer's name for it, such as ``GeForce RTX 4090``; unique in the catalog."""
    backend: Backend = "cuda"
    """What PyTorch calls this kind of device."""
    memory_bytes: int
    """Nominal memory in bytes, as printed on the box (GB there means GiB for graphics cards)."""
    usable_bytes: int
    """Bytes that CUDA can actually hand out (``torch.cuda.mem_get_info()[1]``); at most ``memory_bytes``."""
    compute_capability: tuple[int, int] | None = None
    """NVIDIA's compute capability, such as ``(8, 9)``."""
    architecture: str = ""
    """Such as ``Ada Lovelace``."""
    bf16: bool = False
    """Whether the matrix units support bfloat16 natively."""
    half_tflops: float | None = None
    """Dense 16-bit matrix throughput in TFLOP/s, without sparsity."""
    float32_tflops: float | None = None
    """32-bit throughput in TFLOP/s, without TF32."""
    throughput_spread: float = 1.0
    """Factor, up or down, by which the devices that this entry stands for differ in speed; 1 for a single card."""
    memory_bandwidth_gb_s: float | None = None
    """Memory bandwidth in GB/s (10^9)."""
    bus: str = ""
    """How it is connected to the machine's RAM, such as ``PCIe 4.0 x16``; empty if unknown."""
    recurrent_packages: tuple[str, ...] | None = None
    """Which packages with kernels for recurrent layers (fla, causal_conv1d, mamba_ssm) its machine has; None for a
    card that is not in this machine."""
    form: str = ""
    """desktop, laptop, workstation, datacenter or other."""
    source: str = ""
    """Where the figures come from."""
    measured: Curves | None = None
    """How fast it is, where that was measured on it."""

    own_bytes: int = 0
    """What runs on this very device used beyond their prediction; negative if less. Every estimate for it adds it."""

    @property
    def bus_bytes_per_second(self) -> float | None:
        """Bytes a second that pinned RAM and the device exchange; None if the bus is unknown."""
        found = _PCIE.fullmatch(self.bus)
        return int(found[2]) * _LANE_BYTES_PER_SECOND[found[1]] * _REACHED if found else None

    def __post_init__(self) -> None:
        """Refuse impossible memory sizes."""
        if self.memory_bytes <= 0:
            raise SpecError(self.name, "memory must be more than 0 bytes", self.memory_bytes)
        if not 0 < self.usable_bytes <= self.memory_bytes:
            raise SpecError(self.name, "usable memory must be above 0, at most the nominal memory", self.usable_bytes)

    @property
    def is_cpu(self) -> bool:
        """Whether the device is a CPU, and its memory RAM."""
        return self.backend == "cpu"
