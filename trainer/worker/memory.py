"""What the process of a run takes: resident memory on a CPU, the allocator's and the card's figures on a GPU."""

import sys
from pathlib import Path

import psutil
import torch

if sys.platform != "win32":
    import resource


def used_bytes(device: str) -> int:
    """Return what the process holds now: resident bytes on a CPU, reserved bytes on a card."""
    if device.startswith("cuda"):
        return int(torch.cuda.memory_reserved())
    return int(psutil.Process().memory_info().rss)


def peaks(device: str) -> dict[str, int]:
    """Return the largest figures since the process began."""
    resident = _peak_resident_bytes()
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


def _peak_resident_bytes() -> int:
    """Return the most resident memory that this process has held since its program began.

    On Linux ``ru_maxrss`` begins at the peak of whoever started the process, as exec hands it on (fs/exec.c,
    ``setmax_mm_hiwater_rss``): a small worker of a large server would report the server's. VmHWM (proc(5)) begins anew.
    """
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes, getrusage(2)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
