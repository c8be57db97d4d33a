"""Where a run trains, as torch sees it."""

import torch

from trainer.runs.feasibility import Ground


def ground(device: str, *, has_pairs: bool = False) -> Ground:
    """Return what a plan is held against once torch is there."""
    capabilities = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
    return Ground(device=device, compute_capabilities=capabilities, has_pairs=has_pairs)
