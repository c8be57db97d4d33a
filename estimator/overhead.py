"""What a device holds besides PyTorch's tensors: the CUDA context, and cuBLAS workspaces."""

from specs import GIB, MIB, GpuSpec

# Bytes of the context after a few training steps, by compute capability.
_CONTEXT_BYTES = {
    (7, 5): 141 * MIB,  # Tesla T4, torch 2.10: github Anassbzdd/fitcheck data/measurements, nvidia-smi minus reserved
    (8, 9): 426 * MIB,  # RTX 6000 Ada: github unslothai/unsloth-zoo #1053
}
_USUAL_CONTEXT_BYTES = 426 * MIB

# aten/src/ATen/cuda/CublasHandlePool.cpp, parseChosenWorkspaceSize (torch 2.13): :4096:2:16:8, and 32 MiB from Hopper
# on.
_CUBLAS_WORKSPACE_BYTES = 8_519_680
_CUBLAS_WORKSPACE_BYTES_HOPPER = 32 * MIB
CUBLAS_WORKSPACES = 2
"""One of the main thread and one of autograd's; seen as a constant of 16.25 MiB in the T4 runs of
Anassbzdd/fitcheck."""

# Resident memory of a worker on the CPU before it holds a tensor: Python 3.11 with torch 2.13.0, transformers 5.23.0,
# peft 0.21.2,
# bitsandbytes 0.50.2, trl 1.16.0 imported.
_WORKER_BYTES = GIB // 2


def context_bytes(gpu: GpuSpec) -> int:
    """Return what nvidia-smi shows of a training process beyond PyTorch's reserved memory."""
    if gpu.is_cpu:
        return 0
    return _CONTEXT_BYTES.get(gpu.compute_capability or (0, 0), _USUAL_CONTEXT_BYTES)


def cublas_workspace_bytes(gpu: GpuSpec) -> int:
    """Return the bytes of one cuBLAS workspace."""
    if gpu.is_cpu:
        return 0
    hopper = gpu.compute_capability is not None and gpu.compute_capability >= (9, 0)
    return _CUBLAS_WORKSPACE_BYTES_HOPPER if hopper else _CUBLAS_WORKSPACE_BYTES


def worker_bytes() -> int:
    """Return the host memory of a worker process before it holds a tensor."""
    return _WORKER_BYTES
