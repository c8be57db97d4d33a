"""Which plans for several devices a run can carry out on a device, and which it refuses in a sentence."""

from specs import FinetunePlan, PlanError


def require_trainable(plan: FinetunePlan, device: str) -> None:
    """Refuse a plan whose way to share the work cannot take place on a device.

    Raises:
        PlanError: If the devices or the quantization do not allow it.
    """
    if device == "cpu" and plan.sharding not in {"none", "ddp"}:
        # transformers ignores ``fsdp`` under ``use_cpu`` without a word, and would train whole copies.
        raise PlanError("sharding", "on a CPU is none or ddp", plan.sharding, "Choose ddp, or a machine with cards")
