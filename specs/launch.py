"""How several processes of one training are started: torchrun's arguments, on one machine and on several."""


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
