"""Print for every language model of transformers whether its training step is traced, or why not.

Each type is taken with its class's default configuration, completed where that alone builds no model, and for text
generation, or for the first task that transformers has it for:
``python -m scripts.facts.traces [TYPE ...]``. Without types it takes all, and writes docs/traced.md.
"""

import argparse
import logging
import math
import os
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from catalog import models
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tracer.trace import trace
from scripts.facts.architectures import model_types
from specs import TASK_TYPES, FinetunePlan, LorafitError, ModelSpec
from specs.paths import REPO
from trainer.model.misfit import misfit

TRACED = "traced"
_PROCESSES = 2
_WRITTEN_BY = "Written by `make architectures`."

# What default configurations leave out although their model cannot be built without it: sizes of the published models.
_ROPE = {"rope_theta": 10_000.0, "rope_type": "default"}
_HALF_TURNED = {**_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [8, 12, 12]}
_COMPLETED: Mapping[str, Mapping[str, Any]] = {
    "deepseek_v2": {"topk_group": 1, "n_group": 1, "num_experts_per_tok": 6, "moe_intermediate_size": 1408},
    "dots1": {"n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 2},
    "glm4v": {"text_config": {"rope_parameters": _HALF_TURNED}},
    "glm46v": {"text_config": {"model_type": "glm4v_text", "rope_parameters": _HALF_TURNED}},
    "glmga": {"text_config": {"model_type": "glm4v_text", "rope_parameters": _HALF_TURNED}},
    "glm4v_moe": {"text_config": {"head_dim": 128, "rope_parameters": _HALF_TURNED}},
    "hunyuan_v1_dense": {"head_dim": 128, "rope_parameters": _ROPE},
    "hunyuan_v1_moe": {"head_dim": 128, "rope_parameters": _ROPE},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"head_dim": 128},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 151652},
    "nemotron": {"num_key_value_heads": 8, "head_dim": 128},
}


def default_config(model_type: str) -> dict[str, Any]:
    """Return a type's default configuration as plain JSON values, without those that JSON cannot hold."""
    completed = _COMPLETED.get(model_type, {})
    try:
        plain: dict[str, Any] = _plain(CONFIG_MAPPING[model_type](**completed).to_dict())
    except Exception as error:  # whatever transformers' own defaults fail with is the answer
        raise misfit(error, {"model_type": model_type}) from error
    return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one type."""

    task: str
    """What it would be trained for; empty where that is not known."""
    said: str
    """That it is traced, or the sentence that says why not."""
    seconds: float
    """Processor time."""


def outcome(model_type: str) -> Outcome:
    """Return whether one type is traced."""
    started, task = time.process_time(), ""
    try:
        model = models.described(default_config(model_type), name=model_type, source="transformers' default")
        task = "CAUSAL_LM" if "CAUSAL_LM" in model.task_types else next(iter(model.task_types), "CAUSAL_LM")
        said = _traced(model, task)
    except LorafitError as error:
        said = str(error)
    return Outcome(task=task, said=said, seconds=time.process_time() - started)


def _traced(model: ModelSpec, task: str) -> str:
    plan = FinetunePlan.for_method(
        "qlora", model.name, task_type=task, lora_dropout=0.0, per_device_train_batch_size=2, max_length=512
    )
    tape = trace(recipe(model, plan, Conditions()), lambda _: None)
    return TRACED if len(tape.program.sign) else "an empty tape"


def _plain(value: Any) -> Any:
    """Return a value without what JSON does not hold: numbers that are not finite, and objects."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items() if not _is_lost(part)}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _is_lost(value: object) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    return value is not None and not isinstance(value, str | int | Mapping | list | tuple)


def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")


def as_page(found: Mapping[str, Outcome]) -> str:
    """Return the table as a page of the documentation."""
    causal = [entry for name, entry in found.items() if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    writing = [entry for entry in causal if entry.task in {"CAUSAL_LM", ""}]
    of_writing, of_all = (sum(one.said == TRACED for one in entries) for entries in (writing, found.values()))
    counted = (
        f"transformers {transformers.__version__} has {len(causal)} types in its list of causal language models, "
        f"{len(found)} with those that also read images or sound. Of the {len(writing)} that continue text "
        f"{of_writing} are traced, of all {of_all}, at their default configurations: QLoRA, on tensors without values."
    )
    tasks = {entry.task for entry in found.values() if entry.said == TRACED}
    traced = [
        f"For {TASK_TYPES[task].label}: "
        + ", ".join(sorted(name for name, one in found.items() if (one.said, one.task) == (TRACED, task)))
        for task in sorted(tasks)
    ]
    refused = [f"| {name} | {entry.said} |" for name, entry in sorted(found.items()) if entry.said != TRACED]
    parts = ["# Types of models that are traced", _WRITTEN_BY, counted, "## Traced", *traced, "## Not traced, and why"]
    return "\n\n".join([*parts, "\n".join(["| type | why |", "|---|---|", *refused])]) + "\n"


def main() -> None:
    """Print the table, and write it if all types are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("types", nargs="*", help="model types; all of them if none is given")
    asked = parser.parse_args().types
    chosen = asked or model_types()
    found = {}
    with ProcessPoolExecutor(_PROCESSES, mp_context=get_context("spawn"), initializer=_quiet) as pool:
        for model_type, one in zip(chosen, pool.map(outcome, chosen), strict=True):
            found[model_type] = one
            print(f"{model_type:<26} {one.seconds:6.1f} s  {one.task:<18} {one.said}", flush=True)
    print(f"\n{sum(one.said == TRACED for one in found.values())} of {len(found)} traced")
    if not asked:
        (REPO / "docs" / "traced.md").write_text(as_page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
