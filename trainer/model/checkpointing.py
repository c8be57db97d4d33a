"""Which activations a model recomputes in its backward pass, and where those that it keeps wait."""

from typing import Any

from transformers import PreTrainedModel

from specs import METHODS, FinetunePlan, PlanError


def checkpointing_kwargs(plan: FinetunePlan, *, device: str) -> dict[str, Any]:
    """Return how a plan's activations are recomputed, as transformers' ``activation_checkpointing_kwargs``.

    On a CPU they are in RAM already; transformers 5.23 would ask for pinned memory, which PyTorch has only beside a
    card.
    """
    every = {"every_n_layers": plan.every_n_layers} if plan.every_n_layers > 1 else {}
    offload = {"offload": True} if plan.activation_offloading and device != "cpu" else {}
    return {"use_reentrant": plan.use_reentrant, **every, **offload}


def with_checkpointing(model: PreTrainedModel, plan: FinetunePlan, *, device: str) -> PreTrainedModel:
    """Return the model with gradient checkpointing as the plan says; transformers 5 calls it activation checkpointing.

    With an adapter, the embedding's output requires gradients, as in TRL's ``SFTTrainer``.

    Raises:
        PlanError: If the model cannot recompute its activations.
    """
    if plan.gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            rule = f"{model.config.model_type} cannot recompute its activations"
            raise PlanError("gradient_checkpointing", rule, None, "Turn it off")
        values = checkpointing_kwargs(plan, device=device)
        # transformers' own names stand beside what it hands on to PyTorch.
        own = {name: values.pop(name) for name in ("every_n_layers", "offload") if name in values}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=values, **own)
        if METHODS[plan.method].trains_adapter:
            model.enable_input_require_grads()
    return model
