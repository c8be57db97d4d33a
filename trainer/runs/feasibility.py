"""What a run cannot do where it is to train: told when it is created, and by the worker if it changed since."""

import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from specs import TASK_TYPES, DataError, FinetunePlan, PlanError, RunError
from specs.checks import MOST_LABELS
from specs.errors import nearest
from specs.gpu import WITHOUT_8BIT_OPTIMIZERS
from specs.launch import ACCELERATE, require_named
from specs.tasks import require_trained_for, task_type_of
from trainer.data.source import HELD

_EXPORT = f"export the plan for accelerate, which starts it: {ACCELERATE}"
_SHARDED: Mapping[str, tuple[object, ...]] = {
    "method": ("full", "lora", "qlora"),
    "task_type": ("CAUSAL_LM",),
    "offload": ("none",),
    "optim": ("adamw_torch", "adamw_torch_fused"),
    "bf16": (False,),
    "fp16": (False,),
    "load_in_8bit": (False,),
    "use_dora": (False,),
    "init_lora_weights": ("default", "gaussian"),
    "loraplus_lr_ratio": (None,),
    "target_parameters": ((),),
    "modules_to_save": ((),),
    "trainable_token_indices": ((),),
    "load_best_model_at_end": (False,),
}
"""What runs with sharding fsdp were tried with: docs/decisions/0214-sharded-runs.md."""
_FLASH_CAPABILITY = (8, 0)
"""The oldest cards that flash-attn 2 computes on: https://github.com/Dao-AILab/flash-attention, its README."""
_OWN_REPORTS = {"none", "tensorboard"}
"""Values of ``report_to`` that need no further package: TensorBoard's files are always written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where and on what a run is to train, as far as it is known."""

    device: str
    """Torch's name of the device, or of several, such as ``cuda:0,1``."""
    compute_capabilities: Sequence[tuple[int, int] | None] | None = None
    """Those of the GPUs of this machine, in torch's order; None if the machine does not tell which it has."""
    linear_modules: Sequence[str] = ()
    """The modules of the model that an adapter may target; empty if they are not known."""
    has_pairs: bool = False
    """Whether the data is pairs of a better and a worse answer."""
    task_types: Sequence[str] = ()
    """The tasks that the model can be trained for; empty if they are not known."""
    here: bool = True
    """Whether it is this machine, whose packages can be looked at."""
    kinds: Sequence[str] = ()
    """What the data can be taken for, of ``trainer.data.source.TASKS``; empty if it is not known."""

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of its GPUs."""
        return tuple(int(number) for number in self.device.partition(":")[2].split(",") if number.isdecimal()) or (0,)


class Facts(Protocol):
    """What is known of this machine and of models, and is asked when a run is to start."""

    def compute_capabilities(self) -> Sequence[tuple[int, int] | None] | None:
        """Return those of the GPUs of this machine; None if it does not tell which it has."""

    def linear_modules(self, model: str) -> Sequence[str]:
        """Return the modules of a model that an adapter may target; empty if they are not known."""

    def task_types(self, model: str) -> Sequence[str]:
        """Return the tasks that a model can be trained for; empty if they are not known."""

    def require_obtainable(self, model: str) -> None:
        """Refuse a model whose weights can be had neither here nor from the Hub."""


def require_feasible(plan: FinetunePlan, ground: Ground) -> None:
    """Refuse a plan that cannot be trained where it is to train.

    Raises:
        PlanError: Names the field, and what to choose instead.
        RunError: If the machine does not have the device.
        SpecError: If the model is trained for other tasks.
    """
    _require_devices(plan, ground)
    _require_of_maker(plan, ground)
    _require_packages(plan, ground)
    _require_modules(plan, ground.linear_modules)
    if ground.kinds:
        require_task(plan, ground.kinds)
    require_trained_for(Path(plan.model_name_or_path).name, ground.task_types, plan.task_type)
    if ground.has_pairs:
        _require_for_pairs(plan)
    if plan.per_device_train_batch_size < plan.least_batch_size:
        rule = f"must be at least {plan.least_batch_size} for embeddings, which compare the rows of a batch"
        way_out = f"Set it to {plan.least_batch_size} or more"
        raise PlanError("per_device_train_batch_size", rule, plan.per_device_train_batch_size, way_out)


def require_task(plan: FinetunePlan, kinds: Sequence[str]) -> None:
    """Refuse to train for a task on data of another kind.

    Raises:
        PlanError: Names the task that the data is for.
    """
    if not TASK_TYPES[plan.task_type].data.isdisjoint(kinds):
        return
    fitting = task_type_of(kinds)
    way_out = f"Choose {fitting.name}, or other data or columns"
    raise PlanError("task_type", f"must be {fitting.name} for {HELD[kinds[0]]}", plan.task_type, way_out)


def require_classes(plan: FinetunePlan, number: int) -> None:
    """Refuse a plan for another number of classes than the data has.

    Raises:
        PlanError: If it is another one.
        DataError: If there is nothing to tell apart, or too much.
    """
    if number < 2:
        raise DataError("classes", "must be at least 2 to be told apart", number, "Add rows of another class")
    if number > MOST_LABELS:
        raise DataError("classes", f"must be at most {MOST_LABELS:,}", number, "Name another column as label")
    if plan.num_labels != number:
        rule = f"must be {number:,}, the number of classes in the data"
        raise PlanError("num_labels", rule, plan.num_labels, f"Set it to {number}")


def _require_devices(plan: FinetunePlan, ground: Ground) -> None:
    require_named(ground.device)
    if plan.sharding != "none":
        _require_sharding(plan, ground)
    known = ground.compute_capabilities
    if not ground.on_gpu or known is None:
        return
    if not known or max(ground.numbers) >= len(known):
        rule = (
            f"must be cpu, or one of the {len(known)} GPUs of this machine" if known else "must be cpu: there is no GPU"
        )
        raise RunError("device", rule, ground.device, "Choose another device")
    if len(known) < plan.num_gpus:
        rule = f"must be at most {len(known)}, the number of GPUs that this run can use"
        raise PlanError("num_gpus", rule, plan.num_gpus, "Lower it")


def _require_sharding(plan: FinetunePlan, ground: Ground) -> None:
    """Refuse a way to divide a model that no run was tried with: it is exported instead."""
    possible = "none or ddp" if ground.on_gpu else "none, ddp or fsdp on a CPU"
    instead = "ddp" if ground.on_gpu else "fsdp"
    if plan.sharding.startswith("zero"):
        rule = f"must be {possible} in a run, as ZeRO is DeepSpeed's, which runs do not use"
        raise PlanError("sharding", rule, plan.sharding, f"Choose {instead}, or {_EXPORT}")
    if plan.sharding == "fsdp" and ground.on_gpu:
        rule = f"must be {possible} in a run on GPUs, where no run was tried that divides the model"
        raise PlanError("sharding", rule, plan.sharding, f"Choose {instead}, or {_EXPORT}")
    if plan.sharding == "fsdp":
        _require_tried(plan, has_pairs=ground.has_pairs)


def _require_tried(plan: FinetunePlan, *, has_pairs: bool) -> None:
    if has_pairs:
        raise PlanError("sharding", "must be ddp for preference pairs", plan.sharding, "Choose ddp")
    if plan.load_in_4bit and plan.bnb_4bit_quant_storage == "uint8":
        rule = "must be a float format with sharding fsdp, which divides no integers"
        raise PlanError("bnb_4bit_quant_storage", rule, plan.bnb_4bit_quant_storage, f"Choose {plan.dtype}")
    for field, possible in _SHARDED.items():
        if getattr(plan, field) not in possible:
            rule = f"must be {' or '.join(map(_said, possible))} in a run with sharding fsdp"
            raise PlanError(field, rule, getattr(plan, field), "Change it, or choose ddp")


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "empty"
    return "off" if value is False else "none" if value is None else str(value)


def _require_of_maker(plan: FinetunePlan, ground: Ground) -> None:
    """Refuse what torch and bitsandbytes do not compute on Intel's and Apple's GPUs."""
    kind = ground.device.partition(":")[0]
    if kind not in {"mps", "xpu"}:
        return
    if ground.here and kind == "mps" and (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        raise RunError("device", "mps is the GPU of a Mac with an M1 or later", ground.device, "Choose another device")
    if ground.here and kind == "xpu" and "xpu" not in importlib.metadata.version("torch"):
        rule = "xpu needs the build of torch for Intel's GPUs, and here is another"
        way_out = "Install that build as docs/devices.md says, or choose cpu"
        raise RunError("device", rule, importlib.metadata.version("torch"), way_out)
    if plan.num_gpus > 1:
        raise PlanError("num_gpus", f"must be 1 on {kind}: more were never tried", plan.num_gpus, "Set it to 1")
    if kind in WITHOUT_8BIT_OPTIMIZERS and ("8bit" in plan.optim or "paged" in plan.optim):
        rule = "must not be one of bitsandbytes, which has none for Apple's GPUs yet (0.50)"
        raise PlanError("optim", rule, plan.optim, "Choose adamw_torch")


def _require_packages(plan: FinetunePlan, ground: Ground) -> None:
    if plan.report_to not in _OWN_REPORTS and importlib.util.find_spec(plan.report_to) is None:
        way_out = f"Run pip install {plan.report_to}, or choose tensorboard"
        raise PlanError("report_to", "needs a package that is not installed", plan.report_to, way_out)
    if plan.attn_implementation != "flash_attention_2":
        return
    if not ground.on_gpu or importlib.util.find_spec("flash_attn") is None:
        rule = "flash_attention_2 needs the flash-attn package and a CUDA device"
        raise PlanError("attn_implementation", rule, ground.device, "Choose sdpa")
    capability = ground.compute_capabilities[ground.numbers[0]] if ground.compute_capabilities else None
    if capability is not None and capability < _FLASH_CAPABILITY:
        rule = "flash_attention_2 needs compute capability 8.0 or newer"
        raise PlanError("attn_implementation", rule, "{}.{}".format(*capability), "Choose sdpa")


def _require_modules(plan: FinetunePlan, names: Sequence[str]) -> None:
    """Refuse names that no module of the model has; expressions are left to the worker, which has all paths."""
    if not names:
        return
    targets = () if isinstance(plan.target_modules, str) else plan.target_modules
    patterns = [(field, name) for field in ("rank_pattern", "alpha_pattern") for name, _ in getattr(plan, field)]
    for field, name in [*(("target_modules", name) for name in targets), *patterns]:
        if name not in names and (field == "target_modules" or name.isidentifier()):
            raise PlanError(field, "must name linear modules of the model", name, nearest(name, names))


def _require_for_pairs(plan: FinetunePlan) -> None:
    if not plan.keeps_base:
        way_out = "Choose lora or qlora, bias none, and init_lora_weights default, gaussian or eva"
        rule = "must keep the base model unchanged as the reference for preference pairs"
        raise PlanError("method", rule, plan.method, way_out)
    if plan.method == "adalora":
        rule = "adalora supports one adapter, but DPO starts with two"
        raise PlanError("method", rule, plan.method, "Choose lora or qlora")
