"""Which adapters can be loaded beside that of a run, onto one base model, and answer in its conversation."""

import json

from specs import METHODS, TASK_TYPES, RunError
from trainer.runs.contract import RESULT, Run
from trainer.runs.store import Store


def companions(store: Store, run: Run) -> list[Run]:
    """Return the other runs whose adapters can answer in a run's conversation, the newest first."""
    return [other for other in store.runs() if other.id != run.id and not _obstacle(store, run, other)]


def routed(store: Store, run: Run) -> list[Run]:
    """Return the runs among whose adapters a router chooses for each token: this one first; none if it would be alone.

    PEFT's router stacks adapters of one rank on the same layers, and reads no DoRA. Combinations of the others are left
    out.

    Source:
        PEFT 0.21, ``create_arrow_model``; Ostapenko et al. 2024, Towards Modular LLMs by Building and Reusing a Library
        of LoRAs, https://arxiv.org/abs/2405.11157.
    """
    if run.parts or (wanted := _shape(store, run)) is None:
        return []
    alike = [one for one in companions(store, run) if not one.parts and _shape(store, one) == wanted]
    return [run, *alike] if alike else []


def _shape(store: Store, run: Run) -> tuple[int, frozenset[str]] | None:
    """Return the rank and the layers of a run's adapter; None for one that no router reads."""
    try:
        text = (store.folder / run.id / RESULT / "adapter_config.json").read_text(encoding="utf-8")
        config = json.loads(text)
        is_plain = not (config.get("use_dora") or config.get("rank_pattern") or config.get("modules_to_save"))
        return (int(config["r"]), frozenset(config["target_modules"])) if is_plain else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def require_companion(store: Store, run: Run, other: Run) -> None:
    """Refuse a run whose adapter cannot be loaded beside that of another run.

    Raises:
        RunError: If it cannot.
    """
    if obstacle := _obstacle(store, run, other):
        raise RunError(f"run {other.id}", f"cannot answer beside run {run.id}: {obstacle}")


def _obstacle(store: Store, run: Run, other: Run) -> str:
    """Return why two adapters cannot be loaded together; empty if they can.

    PEFT loads LoRA adapters, DoRA among them, side by side; what changes weights of the base would change them for all.

    Source:
        PEFT 0.21, ``PeftModel.load_adapter`` and ``LoraModel.inject_adapter``.
    """
    if not TASK_TYPES[run.plan.task_type].writes or other.plan.task_type != run.plan.task_type:
        return "only models that write answers to the same task are switched"
    if other.model != run.model:
        return f"it has another base model, {other.plan.model_name_or_path}"
    if _base(other) != _base(run):
        return "its base model is loaded in other numbers"
    for one in (run, other):
        if METHODS[one.plan.method].peft_type != "LORA" or not one.plan.keeps_base or one.plan.target_parameters:
            return f"the adapter of run {one.id} is no LoRA that leaves the base model as it is"
    return "" if (store.folder / other.id / RESULT).is_dir() else "it has saved no adapter yet"


def _base(run: Run) -> tuple[object, ...]:
    """Return what decides the numbers in which the base model of a run is loaded."""
    plan = run.plan
    in_4bit = (plan.bnb_4bit_quant_type, plan.bnb_4bit_use_double_quant) if plan.load_in_4bit else ()
    return plan.dtype, plan.quantization, *in_4bit
