"""How the processes of a training are started: their environment, and torchrun's arguments for several of them."""

import re
from collections.abc import Mapping

from specs.errors import RunError

_DEVICE = re.compile(r"cpu|mps|(?:cuda|xpu):\d+(?:,\d+)*")


def device_environment(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that trains on a device, on top of a given one.

    Raises:
        RunError: If torch has no such device.
    """
    if not _DEVICE.fullmatch(device):
        raise RunError("device", "must be cpu, mps, cuda:N or xpu:N, or cuda:N,M for several", device)
    values = {
        **environment,
        "TOKENIZERS_PARALLELISM": "false",
        # Threads that spin while they wait cost a busy machine most of its time. Matrix products of a 256 x 576 batch
        # on 2 cores beside other work, torch 2.13.0, 2026-11-22: 31 and 62 a second instead of 10 and 18.
        "OMP_WAIT_POLICY": environment.get("OMP_WAIT_POLICY", "PASSIVE"),
        # Sequences of different lengths otherwise fragment the cache of the CUDA allocator:
        # https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-alloc-conf
        "PYTORCH_ALLOC_CONF": environment.get("PYTORCH_ALLOC_CONF", "expandable_segments:True"),
    }
    kind, _, index = device.partition(":")
    if kind == "cuda":
        values |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": index}
    elif kind == "cpu":
        # glibc raises this limit by itself with each large block freed, and then keeps freed tensors. Peak of QLoRA on
        # SmolLM2-135M with 2 x 128 tokens: 2,409 MiB by itself, 1,833 MiB so, and no slower; torch 2.13.0, 2026-11-22.
        values |= {
            "CUDA_VISIBLE_DEVICES": "",
            "MALLOC_MMAP_THRESHOLD_": environment.get("MALLOC_MMAP_THRESHOLD_", "65536"),
        }
    return values


def torchrun_arguments(processes: int, *, nodes: int = 1, endpoint: str = "HOST:29500") -> list[str]:
    """Return what follows ``python -m`` to start ``processes`` in all; what they run follows these.

    On several nodes the same command is given on each, with one of them as ``endpoint``.

    Args:
        processes: One for each device, over all nodes.
        nodes: Machines with the same number of devices each.
        endpoint: Name and port of one node; 29500 is torchrun's own default.

    Raises:
        ValueError: If the processes cannot be shared out evenly.

    Source:
        https://docs.pytorch.org/docs/stable/elastic/run.html
    """
    each, left = divmod(processes, nodes)
    if left or not each:
        raise ValueError(f"{processes} processes cannot be shared out evenly to {nodes} nodes")
    place = (
        ["--standalone"] if nodes == 1 else [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]
    )
    return ["torch.distributed.run", *place, f"--nproc-per-node={each}"]
