"""The device a run uses: a graphics card, or the CPU with its RAM."""

from dataclasses import dataclass
from typing import Literal

from specs.curves import Curves
from specs.errors import SpecError

Backend = Literal["cuda", "rocm", "xpu", "mps", "cpu"]


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
    recurrent_packages: tuple[str, ...] | None = None
    """Which packages with kernels for recurrent layers (fla, causal_conv1d, mamba_ssm) its machine has; None for a
    card that is not in this machine."""
    form: str = ""
    """desktop, laptop, workstation, datacenter or other."""
    source: str = ""
    """Where the figures come from."""
    measured: Curves | None = None
    """How fast it is, where that was measured on it."""

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
