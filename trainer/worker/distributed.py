"""What the processes of one run on several devices agree on; with one process, each function returns its input."""

from threading import Event
from typing import Any

import torch
from torch import distributed as dist

_PARTED: list[Any] = []
"""The groups that this process has left, kept for as long as it lives.

If DDP's reducer drops the last reference to a group, it waits under the interpreter's lock for a thread of gloo that
may need this lock to free the last message: both wait for ever. Python's own reference is dropped without the lock
(torch 2.13, torch/csrc/distributed/c10d/init.cpp, ``IntrusivePtrNoGilDestructor``), so it must be the last.
"""


def join(device: str) -> None:
    """Join the other processes that torchrun has started; messages go through gloo, tensors on GPUs through NCCL."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")


def any_of(flag: bool) -> bool:  # noqa: FBT001 - the flag is the value
    """Return whether the flag is set in any process; every process must call this."""
    if not dist.is_initialized():
        return flag
    any_set = torch.tensor(int(flag))
    dist.all_reduce(any_set, dist.ReduceOp.MAX)
    return bool(any_set.item())


class Agreed:
    """An event that is set for every process once it is set for one; all must look at it equally often."""

    def __init__(self, event: Event) -> None:
        self._event = event

    def is_set(self) -> bool:
        """Return whether the event is set in any process."""
        return any_of(self._event.is_set())


def from_leader(value: Any) -> Any:
    """Return the value of the process with rank 0; every process must call this."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def from_each(value: Any) -> list[Any]:
    """Return the values of all processes, by rank; every process must call this."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def meet() -> None:
    """Wait until every process has come this far; unlike ``dist.barrier``, needs no GPU."""
    any_of(False)  # noqa: FBT003 - whatever the flag


def leave() -> None:
    """Leave the other processes once all have come this far."""
    if dist.is_initialized():
        meet()
        _PARTED.append(dist.group.WORLD)
        dist.destroy_process_group()
