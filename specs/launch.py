"""How training processes are started: their environment, and torchrun's arguments for more than one."""

import re
from collections.abc import Mapping

from specs.errors import RunError

MEMORY_LIMIT = "MALLOC_MMAP_THRESHOLD_"
"""Above so many bytes, glibc gives each block back as soon as it is freed: ``mallopt(3)``."""

GIVEN_CARDS = "LORAFIT_GIVEN_CARDS"
"""The variable with the cards that a scheduler gave to its job, in CUDA's words; numbers count within these."""

ACCELERATE = "accelerate launch --config_file accelerate.yaml train.py"
"""The command that starts what the export for accelerate writes."""

_DEVICE = re.compile(r"cpu|mps|(?:cuda|xpu):(?!.*\b([0-9]+),(?:.*,)?\1\b)[0-9]+(?:,[0-9]+)*")


def require_named(device: str) -> None:
    """Refuse what is the name of no device.

    Raises:
        RunError: If torch has no such device.
    """
    if not _DEVICE.fullmatch(device):
        raise RunError("device", "must be cpu, mps, cuda:N or xpu:N, or cuda:N,M for several", device)


def device_environment(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process that trains on a device, based on a given one.

    Raises:
        RunError: If torch has no such device.
    """
    require_named(device)
    values = {
        **environment,
        "TOKENIZERS_PARALLELISM": "false",
        # Threads that spin while they wait take most of a busy machine's time. Matrix products of a 256 x 576 batch
        # on 2 cores with other work running, torch 2.13.0, 2026-11-22: 31 and 62 per second instead of 10 and 18.
        "OMP_WAIT_POLICY": environment.get("OMP_WAIT_POLICY", "PASSIVE"),
        # Otherwise sequences of different lengths fragment the cache of the CUDA allocator:
        # https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-alloc-conf
        "PYTORCH_ALLOC_CONF": environment.get("PYTORCH_ALLOC_CONF", "expandable_segments:True"),
    }
    kind, _, index = device.partition(":")
    if kind == "cuda":
        values |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": _given(index, environment)}
    elif kind == "cpu":
        # glibc raises this limit by itself whenever a large block is freed, and then keeps freed tensors. Peak of QLoRA
        # on SmolLM2-135M with 2 x 128 tokens: 2,409 MiB without a fixed limit, 1,833 MiB with it, and no slower;
        # torch 2.13.0, 2026-11-22.
        values |= {
            "CUDA_VISIBLE_DEVICES": "",
            MEMORY_LIMIT: environment.get(MEMORY_LIMIT, "65536"),
        }
    return values


def _given(numbers: str, environment: Mapping[str, str]) -> str:
    """Return cards in CUDA's words: by their numbers on the machine, or among those that a scheduler gave."""
    given = [card for card in environment.get(GIVEN_CARDS, "").split(",") if card]
    wanted = [int(number) for number in numbers.split(",")]
    if not given:
        return numbers
    if max(wanted) >= len(given):
        raise RunError("device", f"must be among the {len(given)} that the scheduler gave", f"cuda:{numbers}")
    return ",".join(given[number] for number in wanted)


def torchrun_arguments(processes: int, *, nodes: int = 1, endpoint: str = "HOST:29500") -> list[str]:
    """Return what follows ``python -m`` to start ``processes`` in all; the script to run comes after it.

    On several nodes, give the same command on each, with one of them as ``endpoint``.

    Args:
        processes: One per device, over all nodes.
        nodes: Machines, each with the same number of devices.
        endpoint: Host name and port of one node; 29500 is torchrun's own default.

    Raises:
        ValueError: If the processes cannot be divided evenly.

    Source:
        https://docs.pytorch.org/docs/stable/elastic/run.html
    """
    each, left = divmod(processes, nodes)
    if left or not each:
        raise ValueError(f"{processes} processes cannot be divided evenly among {nodes} nodes")
    place = (
        ["--standalone"] if nodes == 1 else [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]
    )
    return ["torch.distributed.run", *place, f"--nproc-per-node={each}"]
