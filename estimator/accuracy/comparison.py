"""Predictions compared with measured runs: CSV rows in, predicted and measured bytes with their errors out."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from estimator.accuracy.around import circumstances, conditions, has_liger_loss, switch
from estimator.estimate import MemoryEstimate, Verdict, estimate
from estimator.replay.reservation import Circumstances
from estimator.tape.conditions import Conditions
from estimator.tape.tape import Tape
from specs import METHODS, FinetunePlan, GpuSpec, LorafitError, ModelSpec, PlanError

Kind = Literal["allocated", "reserved", "used"]
KINDS: tuple[Kind, ...] = ("allocated", "reserved", "used")

_MEASURED: Mapping[Kind, str] = {
    "allocated": "max_memory_allocated_bytes",
    "reserved": "max_memory_reserved_bytes",
    "used": "used_bytes",
}
_OPTIMIZERS = {"adamw_torch_foreach": "adamw_torch", "adamw_bnb_8bit": "adamw_8bit", "adamw": "adamw_torch"}

COLUMNS = (
    *("source", "gpu", "model", "method", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"),
    *("bnb_4bit_quant_storage", "r", "target_modules"),
    *("lora_dropout", "adapter_dtype", "dtype", "autocast", "prepare_kbit", "gradient_checkpointing"),
    *("use_reentrant", "loss", "caller_holds_outputs", "outputs_converted", "outputs_dropped", "use_cache"),
    *("kv_repeated", "bnb_forward", "attention_kernel", "padding"),
    "expandable_segments",
    *("optim", "per_device_train_batch_size", "max_length", "gradient_accumulation_steps"),
    "torch_empty_cache_steps",
    *("num_gpus", "sharding", "offload"),
    *(_MEASURED[kind] for kind in KINDS),
    *("versions", "notes"),
)
"""The columns of a measured row, in the order in which they are written to the file."""

OWN = "LoRAFit, "
"""The start of the source of a row that this project's own trainer measured."""

RAN_OUT = "ran out"
"""The start of a row's notes if its run had too little memory."""

# Columns that are plan fields, by how their text is read.
_NUMBERS = {
    "r": int,
    "lora_dropout": float,
    "per_device_train_batch_size": int,
    "max_length": int,
    "gradient_accumulation_steps": int,
    "torch_empty_cache_steps": int,
    "num_gpus": int,
}
_WORDS = (
    *("bnb_4bit_quant_type", "bnb_4bit_quant_storage", "adapter_dtype", "dtype", "loss"),
    *("sharding", "offload"),
)
_SWITCHES = ("bnb_4bit_use_double_quant", "prepare_kbit", "gradient_checkpointing", "use_reentrant")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    """One measured run: what ran, where, and its peaks in bytes."""

    source: str
    gpu: str
    model: str
    """Path of a configuration relative to the file, or a catalog name."""
    plan: FinetunePlan
    conditions: Conditions
    circumstances: Circumstances
    measured: Mapping[Kind, int]
    notes: str

    @property
    def by_own_trainer(self) -> bool:
        """Whether LoRAFit's own trainer ran it, on the libraries of its time; the others are published runs."""
        return self.source.startswith(OWN)

    @property
    def set_name(self) -> str:
        """What runs that are told together have in common: who trained, and on what."""
        number = f"{self.plan.num_gpus} x " if self.plan.num_gpus > 1 else ""
        return f"{'this trainer' if self.by_own_trainer else 'published'}, {number}{self.gpu}"

    @property
    def ran_out(self) -> bool:
        """Whether the run had too little memory."""
        return self.notes.startswith(RAN_OUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The prediction for one row."""

    row: MeasuredRow
    predicted: Mapping[Kind, int]
    verdict: Verdict | None = None
    """Whether the run was predicted to fit; None if there is none."""
    error_text: str = ""
    """Why there is no prediction; empty if there is one."""

    def error(self, kind: Kind) -> float | None:
        """Return the signed fraction by which the prediction is off; None if either side is missing."""
        measured, predicted = self.row.measured.get(kind), self.predicted.get(kind)
        return None if not measured or predicted is None else predicted / measured - 1

    def to_dict(self) -> dict[str, Any]:
        """Return predicted, measured and errors as plain JSON values; ``error`` is the error of the allocated bytes."""
        values: dict[str, Any] = {
            "source": self.row.source,
            "gpu": self.row.gpu,
            "model": self.row.model,
            "method": self.row.plan.method,
            "per_device_train_batch_size": self.row.plan.per_device_train_batch_size,
            "max_length": self.row.plan.max_length,
            "attention_kernel": self.row.conditions.attention_kernel,
        }
        for kind in KINDS:
            values[f"predicted_{kind}_bytes"] = self.predicted.get(kind)
            values[f"measured_{kind}_bytes"] = self.row.measured.get(kind)
            values[f"error_{kind}"] = self.error(kind)
        values["error"] = self.error("allocated")
        values |= {"ran_out": self.row.ran_out, "verdict": self.verdict}
        if self.error_text:
            values["problem"] = self.error_text
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The errors of one kind of bytes over all rows that have it, as signed fractions."""

    n: int
    mean_abs_error: float | None
    worst_under: float | None
    """The lowest error; negative if any prediction was too low."""
    worst_over: float | None


def rows(text: str) -> tuple[MeasuredRow, ...]:
    """Return the measured runs of a CSV.

    Raises:
        PlanError: If a row contradicts itself or lacks a field that decides the memory.
    """
    table = list(csv.DictReader(io.StringIO(text)))
    return tuple(_row({name: (value or "").strip() for name, value in entry.items() if name}) for entry in table)


def compared(
    row: MeasuredRow,
    *,
    model: Callable[[str], ModelSpec],
    gpu: Callable[[str], GpuSpec],
    tape: Callable[[ModelSpec, MeasuredRow, GpuSpec], Tape],
) -> Comparison:
    """Return the prediction for one row, or the reason why there is none."""
    try:
        spec, card = model(row.model), gpu(row.gpu)
        found: MemoryEstimate = estimate(tape(spec, row, card), row.plan, card, row.circumstances)
    except LorafitError as error:
        return Comparison(row=row, predicted={}, error_text=str(error))
    predicted: dict[Kind, int] = {
        "allocated": found.peak_allocated_bytes,
        "reserved": found.peak_reserved_bytes,
        "used": found.used_bytes,
    }
    return Comparison(row=row, predicted=predicted, verdict=found.verdict)


def summary(comparisons: Sequence[Comparison], kind: Kind) -> Summary:
    """Return the errors of one kind of bytes."""
    errors = [error for comparison in comparisons if (error := comparison.error(kind)) is not None]
    if not errors:
        return Summary(n=0, mean_abs_error=None, worst_under=None, worst_over=None)
    return Summary(
        n=len(errors),
        mean_abs_error=sum(map(abs, errors)) / len(errors),
        worst_under=min(errors),
        worst_over=max(errors),
    )


def report(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return rows and summary as plain JSON values."""
    return {
        "rows": [comparison.to_dict() for comparison in comparisons],
        "summary": {kind: asdict(summary(comparisons, kind)) for kind in KINDS},
    }


def settings(plan: FinetunePlan) -> dict[str, str]:
    """Return a plan as the columns of a measured row, which ``rows`` reads back; unused columns are left out.

    The schema has no columns for what measured runs never varied, such as fp16 over 32-bit weights.
    """
    values = {name: getattr(plan, name) for name in ("method", *_NUMBERS, *_WORDS, *_SWITCHES, "optim")}
    targets = plan.target_modules
    values["target_modules"] = targets if isinstance(targets, str) else " ".join(targets)
    values["autocast"] = plan.autocast_dtype is not None
    values["attention_kernel"] = {"eager": "eager", "flash_attention_2": "flash"}.get(plan.attn_implementation, "auto")
    dropped = [] if METHODS[plan.method].trains_adapter else ["r", "lora_dropout", "target_modules", "adapter_dtype"]
    dropped += [] if plan.load_in_4bit else ["bnb_4bit_quant_type", "bnb_4bit_use_double_quant"]
    values = {name: value for name, value in values.items() if value is not None}
    cells = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}
    return {name: cells[name] for name in COLUMNS if name in cells and name not in dropped}


def _row(entry: Mapping[str, str]) -> MeasuredRow:
    if "model" not in entry or "method" not in entry:
        raise PlanError("measured rows", "must have the columns model and method", None, "Use the schema in the README")
    measured: dict[Kind, int] = {kind: int(float(entry[name])) for kind, name in _MEASURED.items() if entry.get(name)}
    return MeasuredRow(
        source=entry.get("source", ""),
        gpu=entry.get("gpu", ""),
        model=entry["model"],
        plan=_plan(entry),
        conditions=conditions(entry),
        circumstances=circumstances(entry),
        measured=measured,
        notes=entry.get("notes", ""),
    )


def _plan(entry: Mapping[str, str]) -> FinetunePlan:
    """Return the plan that a row describes; empty cells keep the plan's defaults."""
    values: dict[str, Any] = {}
    for name, read in _NUMBERS.items():
        if entry.get(name):
            values[name] = _number(name, entry[name], read)
    values.update({name: entry[name] for name in _WORDS if entry.get(name)})
    if has_liger_loss(entry):
        values["loss"] = "full"
    values.update({name: switch(name, entry[name]) for name in _SWITCHES if entry.get(name)})
    targets = entry.get("target_modules", "")
    if targets and targets != "all-linear":
        values["target_modules"] = tuple(targets.split())
    if entry.get("optim"):
        values["optim"] = _OPTIMIZERS.get(entry["optim"], entry["optim"])
    if entry.get("attention_kernel") == "eager":
        values["attn_implementation"] = "eager"
    if entry.get("autocast") and switch("autocast", entry["autocast"]):
        values["fp16" if values.get("dtype") == "float16" else "bf16"] = True
    # A plan's default loss is TRL's of 2026; rows that do not name a loss were measured with plain cross-entropy.
    values.setdefault("loss", "full")
    return FinetunePlan.for_method(entry["method"], entry["model"], **_without_adapter(entry["method"], values))


def _number(name: str, text: str, read: Callable[[float], float]) -> float:
    try:
        return read(float(text))
    except ValueError as error:
        raise PlanError(name, "must be a number", text) from error


def _without_adapter(method: str, values: dict[str, Any]) -> dict[str, Any]:
    if method in METHODS and METHODS[method].trains_adapter:
        return values
    return {name: value for name, value in values.items() if name not in {"r", "target_modules", "adapter_dtype"}}
