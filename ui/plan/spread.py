"""How a plan is spread over several devices, and what all-linear reaches in a mixture, in words. Pure."""

from collections.abc import Mapping

from specs import METHODS, FinetunePlan, ModelSpec, gib

_DIVIDED = "weights, gradients and optimizer states are divided over the devices"
_SPREADS: Mapping[str, tuple[str, str]] = {
    "ddp": ("DDP", "each device holds the whole model and trains on a part of the batch"),
    "zero1": ("ZeRO-1", "each device holds the whole model; optimizer states are divided over the devices"),
    "zero2": ("ZeRO-2", "each device holds the whole model; gradients and optimizer states are divided"),
    "zero3": ("ZeRO-3", _DIVIDED),
    "fsdp": ("FSDP2", _DIVIDED),
}
"""What each way to share the work is called, and what a device then holds."""


def named(plan: FinetunePlan) -> str:
    """Return how the devices share the work, such as ``DDP``; empty for one device."""
    return _SPREADS[plan.sharding][0] if plan.sharding in _SPREADS else ""


def in_words(plan: FinetunePlan) -> str:
    """Return in a sentence what each of several devices holds; empty for one device."""
    return f"{': '.join(_SPREADS[plan.sharding])}." if plan.sharding in _SPREADS else ""


def compared(used: Mapping[str, int | None]) -> str:
    """Return in sentences what each of several devices holds and uses under several ways to share the work."""
    return " ".join(f"{_SPREADS[way][0]}: {_use(num_bytes)}; {_SPREADS[way][1]}." for way, num_bytes in used.items())


def _use(num_bytes: int | None) -> str:
    return "memory not traced yet" if num_bytes is None else f"{gib(num_bytes)} on each"


def reached(model: ModelSpec, plan: FinetunePlan) -> str:
    """Return in a sentence which layers of a mixture ``all-linear`` reaches; empty for other models and targets."""
    kind = METHODS[plan.method].peft_type
    if not model.is_moe or model.layers is None or kind is None or plan.target_modules != "all-linear":
        return ""
    names = ", ".join(model.layers.by_default(kind))
    experts = ", ".join(plan.target_parameters)
    rest = f"the router stays as it is, and of the experts {experts} get adapters" if experts else ""
    return f"all-linear is {names} here; {rest or 'the router and the experts stay as they are'}."
