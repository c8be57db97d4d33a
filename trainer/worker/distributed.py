"""What the processes of one run on several devices agree on; in a run of one process each function gives its input."""

from typing import Any

import torch
from torch import distributed as dist


def join(device: str) -> None:
    """Meet the other processes that torchrun has started; messages take gloo, tensors on cards NCCL."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")


def any_of(flag: bool) -> bool:  # noqa: FBT001 - the flag is the value
    """Return whether the flag of any process is set; every process must ask."""
    if not dist.is_initialized():
        return flag
    told = torch.tensor(int(flag))
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told.item())


def from_leader(value: Any) -> Any:
    """Return what the process of rank 0 gave; every process must ask."""
    if not dist.is_initialized():
        return value
    told = [value]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def meet() -> None:
    """Wait until every process has come this far; unlike ``dist.barrier``, without a card."""
    any_of(False)  # noqa: FBT003 - whatever the flag


def leave() -> None:
    """Part from the other processes, once all have come this far."""
    if dist.is_initialized():
        meet()
        dist.destroy_process_group()
