"""What the process of a run takes: resident memory on a CPU, the allocator's and the card's figures on a GPU."""

import resource
import sys

import psutil
import torch


def used_bytes(device: str) -> int:
    """Return what the process holds now: resident bytes on a CPU, reserved bytes on a card."""
    if device.startswith("cuda"):
        return int(torch.cuda.memory_reserved())
    return int(psutil.Process().memory_info().rss)


def peaks(device: str) -> dict[str, int]:
    """Return the largest figures since the process began."""
    # Linux counts in KiB, macOS in bytes (getrusage(2)).
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if not device.startswith("cuda"):
        return {"peak_used_bytes": resident}
    free, total = torch.cuda.mem_get_info()
    reserved = int(torch.cuda.max_memory_reserved())
    # What the card has given out beyond the allocator's segments: the CUDA context, and other processes.
    beyond = total - free - int(torch.cuda.memory_reserved())
    return {
        "peak_allocated_bytes": int(torch.cuda.max_memory_allocated()),
        "peak_reserved_bytes": reserved,
        "peak_used_bytes": reserved + beyond,
        "peak_host_bytes": resident,
    }
