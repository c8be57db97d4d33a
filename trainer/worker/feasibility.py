"""What a run can do on a device with what is installed, and what it refuses in one sentence before it starts."""

import importlib.util

import torch

from specs import FinetunePlan, PlanError

_EXPORT = "Export the plan for accelerate and start it yourself, or choose ddp"


def require_feasible(plan: FinetunePlan, device: str) -> None:
    """Refuse a plan that cannot run here.

    Raises:
        PlanError: If its sharding is not supported here, or it needs more GPUs or a package that is missing.
    """
    if plan.sharding not in {"none", "ddp"}:
        # With ``use_cpu``, transformers silently ignores ``fsdp`` and trains full copies.
        where, way_out = ("on a CPU", "Choose ddp") if device == "cpu" else ("for a run started here", _EXPORT)
        raise PlanError("sharding", f"must be none or ddp {where}", plan.sharding, way_out)
    if device.startswith("cuda") and torch.cuda.device_count() < plan.num_gpus:
        rule = f"must be at most {torch.cuda.device_count()}, the number of GPUs that this run can use"
        raise PlanError("num_gpus", rule, plan.num_gpus, "Lower it")
    if plan.report_to != "none" and importlib.util.find_spec(plan.report_to) is None:
        way_out = f"Run pip install {plan.report_to}, or choose none"
        raise PlanError("report_to", "needs a package that is not installed", plan.report_to, way_out)
