"""Compares any settings of a plan: what each combination of values needs. Draws nothing."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from advisor import Situation
from advisor.tree import Cell as MapCell
from advisor.tree import method_map
from catalog import gpus, models
from lorafit import comparing
from lorafit.comparing import Cell, Point
from specs import METHODS, FinetunePlan, GpuSpec, LorafitError, ModelSpec
from ui.parts import prices, text
from ui.plan import planning

_SIZES = ("8 GiB", "12 GiB", "16 GiB", "24 GiB", "48 GiB", "80 GiB")
SIZES = (
    "GB in the name of a card is its maker's word for GiB. A size alone, such as 12 GiB, stands for any card with so "
    "much memory, of which the driver keeps a little."
)
"""What the names of cards and sizes alone stand for."""
_CARDS = (
    "Tesla T4",
    "GeForce RTX 3060 12 GB",
    "GeForce RTX 4090",
    "GeForce RTX 5090",
    "L40S",
    "A100 SXM4 80 GB",
    "H100 SXM5 80 GB",
    "B200",
)
RENTED = ("GeForce RTX 4090", "L40S", "A100 SXM4 80 GB", "H100 SXM5 80 GB")
"""Cards whose time and cost are shown beside the plan's own."""
_MODELS = (
    "meta-llama/Llama-3.2-1B",
    "meta-llama/Llama-3.2-3B",
    "meta-llama/Llama-3.1-8B",
    "Qwen/Qwen2.5-14B",
    "HuggingFaceTB/SmolLM2-135M",
    "Qwen/Qwen3-0.6B",
    "meta-llama/Llama-2-7b-hf",
    "meta-llama/Llama-2-13b-hf",
    "mistralai/Mistral-7B-v0.3",
    "google/gemma-2-9b",
    "huggyllama/llama-30b",
    "huggyllama/llama-65b",
    "meta-llama/Llama-3.1-70B",
)


_FIELDS: Mapping[str, tuple[Any, ...]] = {
    "max_length": (256, 512, 1024, 2048, 4096, 8192, 16_384),
    "per_device_train_batch_size": (1, 2, 4, 8, 16, 32),
    "r": (4, 8, 16, 32, 64, 128, 256),
    "optim": (
        *("adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit", "adafactor", "lion_8bit", "sgd"),
    ),
    "gradient_checkpointing": (False, True),
}
"""The settings to vary besides model, device and method, with the values to choose from."""
NONE = "none"
"""The axis that varies nothing."""

_LARGE = (
    "meta-llama/Llama-3.1-8B",
    "Qwen/Qwen2.5-32B",
    "meta-llama/Llama-3.1-70B",
    "openai/gpt-oss-120b",
    "mistralai/Mixtral-8x22B-v0.1",
    "meta-llama/Llama-3.1-405B",
)
DIVIDED = ("full", "lora", "qlora")
"""The methods for which the number of devices is shown."""
_FOR_LARGE = ("GeForce RTX 4090", "GeForce RTX 5090", "L40S", "A100 SXM4 80 GB", "H100 SXM5 80 GB", "B200")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One setting to vary."""

    values: tuple[Any, ...]
    """The values to choose from."""
    usual: tuple[Any, ...]
    """The values compared by default."""
    own: Any
    """The plan's value."""
    moved: Callable[[Point, Any], Point]
    """Returns a point with another value of the setting."""


def axes(asked: planning.Request, plan: FinetunePlan) -> Mapping[str, Axis]:
    """Return every axis by the name of its setting; the plan's own value is among the values of each."""
    model, card = asked.situation.model, asked.situation.gpu.name
    others = [name for name in _MODELS if name != model.name]
    sizes = tuple(size for size in _SIZES if gpus.find(size).name != card)  # the own one is a column already
    usual = others[:2] if plan.task_type == "CAUSAL_LM" else []  # what they generate is text; their tapes are shipped
    return {
        NONE: Axis(values=("",), usual=("",), own=None, moved=lambda point, _: point),
        "method": _axis(tuple(METHODS), planning.SIDE_BY_SIDE, plan.method, comparing.with_method),
        "device": _axis(
            (*sizes, *_CARDS), sizes, card, lambda point, name: comparing.on_device(point, name, asked.gpu)
        ),
        "model": _axis(_MODELS, usual, model.name, comparing.with_model),
        **{name: _field(name, values, getattr(plan, name)) for name, values in _FIELDS.items()},
    }


def start(asked: planning.Request, plan: FinetunePlan, axes: Sequence[str]) -> Point:
    """Return the plan of a request as the point to move from along some axes."""
    return comparing.begun(asked.situation, plan, asked.gpu, axes)


def table(
    point: Point,
    rows: tuple[Axis, Sequence[Any]],
    columns: tuple[Axis, Sequence[Any]],
    progress: Callable[[float], object] = lambda _: None,
) -> list[list[Cell]]:
    """Return the cell of every row value and column value; ``progress`` receives the share done."""
    cells: list[list[Cell]] = []
    for number, row in enumerate(rows[1]):
        cells.append([])
        for done, column in enumerate(columns[1]):
            progress((number + done / len(columns[1])) / len(rows[1]))
            cells[-1].append(_cell(point, (rows[0], row), (columns[0], column)))
    return cells


def map_of_methods(situation: Situation) -> tuple[MapCell, ...]:
    """Return the method that is advised for popular models on cards of common sizes; untraced models are left out.

    Args:
        situation: Its data and goal apply to all, and its model is among them.
    """
    cards = [gpus.find(size) for size in _SIZES]
    names = dict.fromkeys((situation.model.name, *_MODELS))
    specs = [situation.model if name == situation.model.name else models.find(name) for name in names]
    found: list[MapCell] = []
    for spec in sorted(specs, key=lambda spec: spec.num_params or 0):
        with contextlib.suppress(LorafitError):  # not traced, or not trained for the task of the data
            asked = [elsewhere(situation, spec, card) for card in cards]
            if planning.is_traced(asked[-1]):
                found += method_map(asked, prices.priced, prices.at_least)
    return tuple(found)


def elsewhere(situation: Situation, model: ModelSpec, gpu: GpuSpec) -> Situation:
    """Return the same data and goal with another model on one whole card, and nothing fixed."""
    return replace(situation, model=model, gpu=gpu, free_bytes=None, num_gpus=1, pins={})


def numbers_of_devices(
    situation: Situation, method: str, progress: Callable[[float], object]
) -> dict[str, dict[str, int | None]]:
    """Return, by model and device, the fewest devices a method needs; None if no number is enough.

    Args:
        situation: Its model comes first; its data and goal apply to all.
        method: The method.
        progress: Receives the share done.
    """
    names = list(dict.fromkeys((situation.model.name, *_LARGE)))
    found: dict[str, dict[str, int | None]] = {}
    for done, name in enumerate(names):
        progress(done / len(names))
        model = situation.model if name == situation.model.name else models.find(name)
        asked = [elsewhere(situation, model, gpus.find(card)) for card in _FOR_LARGE]
        found[name] = {entry.gpu.name: planning.devices_needed(entry, method) for entry in asked}
    return found


def grouped(
    point: Point,
    axes: Sequence[tuple[Axis, Sequence[Any]]],
    progress: Callable[[float], object] = lambda _: None,
) -> list[list[list[Cell]]]:
    """Return a table of rows and columns for each value of the first of three axes.

    ``progress`` receives the share done.
    """
    (groups, values), rows, columns = axes
    found = []
    for number, value in enumerate(values):
        moved = moved_to(point, (groups, value))

        def within(share: float, before: int = number) -> None:
            progress((before + share) / len(values))

        if isinstance(moved, Cell):
            found.append([[moved] * len(columns[1]) for _ in rows[1]])
        else:
            found.append(table(moved, rows, columns, within))
    return found


def least_that_fit(cells: Sequence[Sequence[Cell]]) -> list[Cell | None]:
    """Return for each column the cell with the least used memory among those that fit, None where none does."""

    def used(cell: Cell) -> int:
        return cell.estimate.used_bytes if cell.estimate else 0

    fitting = (
        [cell for cell in column if cell.estimate and cell.estimate.spare_bytes >= 0]
        for column in zip(*cells, strict=True)
    )
    return [min(column, key=used, default=None) for column in fitting]


def label(axis: str, value: Any) -> str:
    """Return how a value of an axis is shown."""
    if axis == "method":
        return METHODS[value].label
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return text.value(value)


def _axis(values: Sequence[Any], usual: Sequence[Any], own: Any, moved: Callable[[Point, Any], Point]) -> Axis:
    """Return an axis that has the plan's own value too, numbers in their order."""
    every, compared = ((own, *(value for value in some if value != own)) for some in (values, usual))
    if all(isinstance(value, int) and not isinstance(value, bool) for value in every):
        every, compared = tuple(sorted(every)), tuple(sorted(compared))
    elif own in usual:
        every, compared = tuple(values), tuple(usual)
    return Axis(values=every, usual=compared, own=own, moved=moved)


def _field(name: str, values: tuple[Any, ...], own: Any) -> Axis:
    return _axis(values, values, own, lambda point, value: comparing.with_field(point, name, value))


def _cell(point: Point, *moves: tuple[Axis, Any]) -> Cell:
    return comparing.priced(point, map(_move, moves), prices.priced)


def moved_to(point: Point, *moves: tuple[Axis, Any]) -> Point | Cell:
    """Return the point with other values, or why there is none."""
    return comparing.moved(point, map(_move, moves))


def _move(move: tuple[Axis, Any]) -> comparing.Move:
    axis, value = move
    return lambda point: axis.moved(point, value)
