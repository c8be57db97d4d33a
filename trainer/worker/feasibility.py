"""What a run can carry out on a device with what is installed, and what it refuses in a sentence before it begins."""

import importlib.util

import torch

from specs import FinetunePlan, PlanError

_EXPORT = "Export the plan for accelerate and start it on your own, or choose ddp"


def require_feasible(plan: FinetunePlan, device: str) -> None:
    """Refuse a plan that cannot take place here.

    Raises:
        PlanError: If its way to share the work or a package that it needs is missing here.
    """
    if plan.sharding not in {"none", "ddp"}:
        # Under ``use_cpu`` transformers ignores ``fsdp`` without a word, and trains whole copies.
        where, way_out = ("on a CPU", "Choose ddp") if device == "cpu" else ("of a run started here", _EXPORT)
        raise PlanError("sharding", f"{where} is none or ddp", plan.sharding, way_out)
    if device.startswith("cuda") and torch.cuda.device_count() < plan.num_gpus:
        rule = f"of a run started here is at most {torch.cuda.device_count()}, as many cards as it sees"
        raise PlanError("num_gpus", rule, plan.num_gpus, "Lower it")
    if plan.report_to != "none" and importlib.util.find_spec(plan.report_to) is None:
        way_out = f"Run pip install {plan.report_to}, or choose none"
        raise PlanError("report_to", "needs a package that is installed", plan.report_to, way_out)
