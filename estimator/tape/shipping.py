"""Writes the tapes that come with the project: one archive per model, in assets/tapes."""

import zipfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import product
from pathlib import Path

from estimator.tape import library
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import Recipe, recipe, sliding_window
from specs import GIB, FinetunePlan, GpuSpec, LorafitError, ModelSpec

SHIPPED_METHODS = ("qlora", "lora", "full")
ALSO_SHIPPED = ("lora-8bit", "dora")
"""Methods also shipped for a few models, within their sliding window."""

_CPU = GpuSpec(name="CPU", backend="cpu", memory_bytes=GIB, usable_bytes=GIB)
# A selection, to keep the project small: sizes of popular families that one card can train in 8-bit.
_ALSO_OF = frozenset(
    {
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "meta-llama/Llama-3.2-1B",
        "meta-llama/Llama-3.2-3B",
        "meta-llama/Llama-3.1-8B",
        "Qwen/Qwen2.5-0.5B",
        "Qwen/Qwen2.5-7B",
        "Qwen/Qwen3-0.6B",
        "Qwen/Qwen3-4B",
        "Qwen/Qwen3-8B",
        "mistralai/Mistral-7B-v0.3",
    }
)

# Tapes of other models of these types are traced when somebody asks, which takes seconds, once.
_TRACED_WHEN_ASKED = frozenset(
    {
        "ernie4_5",
        "ernie4_5_moe",
        "exaone4",
        "glm4_moe",
        "glm4_moe_lite",
        "lfm2",
        "minimax_m2",
        "mistral3",
        "mistral4",
        "mllama",
        "nemotron_h",
        "olmo3",
        "olmoe",
        "qwen2_5_vl",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_next",
        "qwen3_vl",
        "qwen3_vl_moe",
        "seed_oss",
    }
)
_ASKED_MOST = frozenset({"Qwen/Qwen3-VL-8B-Instruct", "mistralai/Mistral-Small-3.2-24B-Instruct-2506"})

_CPU_UP_TO_PARAMS = 4e8
"""Larger models are rarely trained on a CPU."""


def main_recipes(model: ModelSpec) -> Iterator[Recipe]:
    """Yield the recipes shipped for a model: its main methods, checkpointing on and off, one sequence and several.

    For a model with a sliding window, lengths both within and beyond it.
    """
    if model.model_type in _TRACED_WHEN_ASKED and model.name not in _ASKED_MOST:
        return
    window = sliding_window(model.text_config)
    lengths = (8,) if window is None else (8, max(8, window))
    also = ALSO_SHIPPED if model.name in _ALSO_OF else ()
    choices = [*product(SHIPPED_METHODS, lengths), *product(also, lengths[:1])]
    for (method, length), checkpointing, batch in product(choices, (True, False), (1, 2)):
        plan = FinetunePlan.for_method(
            method,
            model.name,
            bf16=True,
            lora_dropout=0.0,
            gradient_checkpointing=checkpointing,
            per_device_train_batch_size=batch,
            max_length=length,
        )
        yield recipe(model, plan, Conditions())
    if (model.num_params or _CPU_UP_TO_PARAMS + 1) <= _CPU_UP_TO_PARAMS:
        yield from _cpu_recipes(model, (*SHIPPED_METHODS, *also))


def _cpu_recipes(model: ModelSpec, methods: Iterable[str]) -> Iterator[Recipe]:
    """Yield the recipes for runs on a CPU, such as the demo."""
    for method, checkpointing, batch in product(methods, (True, False), (1, 2)):
        plan = FinetunePlan.for_method(
            method,
            model.name,
            dtype="float32",
            lora_dropout=0.0,
            gradient_checkpointing=checkpointing,
            per_device_train_batch_size=batch,
            max_length=8,
        )
        yield recipe(model, plan, Conditions(), _CPU)


def write(wanted: Iterable[Recipe]) -> tuple[int, list[str]]:
    """Trace and write the tapes that are still missing; return how many, and why others failed."""
    written, problems = 0, []
    for one in {entry.key: entry for entry in wanted}.values():
        file = library.shipped_file(one)
        if f"{one.key}.json" in _members(file):
            continue
        try:
            text = library.traced(one).to_json()
        except LorafitError as error:
            problems.append(str(error))
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(file, "a") as archive:
            # Without a date, so that the same tapes make the same file.
            archive.writestr(zipfile.ZipInfo(f"{one.key}.json"), text, zipfile.ZIP_DEFLATED, 9)
        written += 1
    return written, problems


def prune(wanted: Iterable[Recipe]) -> int:
    """Drop the shipped tapes that none of the recipes needs; return how many.

    Args:
        wanted: Every recipe that is to be shipped.
    """
    needed: dict[Path, set[str]] = defaultdict(set)
    for one in wanted:
        needed[library.shipped_file(one)].add(f"{one.key}.json")
    folder = next(iter(needed)).parent
    return sum(_pruned(file, needed[file]) for file in sorted(folder.glob("*.zip")))


def _pruned(file: Path, needed: Collection[str]) -> int:
    """Drop all but the needed members of an archive; return how many went."""
    members = _members(file)
    kept = [name for name in members if name in needed]
    if len(kept) == len(members):
        return 0
    with zipfile.ZipFile(file) as archive:
        texts = {name: archive.read(name) for name in kept}
    file.unlink()
    if texts:
        with zipfile.ZipFile(file, "w") as archive:
            for name, text in texts.items():
                archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED, 9)
    return len(members) - len(kept)


def _members(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        return ()
    with zipfile.ZipFile(file) as archive:
        return tuple(archive.namelist())
