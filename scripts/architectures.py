"""Write assets/architectures.json: what transformers builds by default for each of its causal language models.

The catalog never imports torch, so the facts it needs about an architecture are counted once here, on the ``meta``
device: ``python -m scripts.architectures``. A test compares the file with the installed transformers.
"""

import json
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from catalog.shapes import SHAPE_FIELDS, SIZE_FIELDS
from specs.paths import assets
from trainer.model import adapters

# Some default configurations cannot be built because they leave these out; the module names do not depend on them.
_FILLED: tuple[dict[str, int], ...] = ({}, {"head_dim": 128})
_UNBUILDABLE = (
    AssertionError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    StrictDataclassClassValidationError,
)


def model_types() -> tuple[str, ...]:
    """Return every model_type that transformers can train as a causal language model."""
    return tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def built(config: PretrainedConfig) -> PreTrainedModel:
    """Return the causal language model of a configuration without allocating memory for its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def linear_modules(model: PreTrainedModel) -> list[str]:
    """Return the last name parts that an adapter may target: every Linear and Conv1D except output head and routers."""
    return list(adapters.linear_modules(model))


def expert_parameters(model: PreTrainedModel) -> list[str]:
    """Return the names of 3-D parameters that hold all experts of a layer, such as ``experts.down_proj``."""
    fused = (name.split(".")[-2:] for name, weight in model.named_parameters() if weight.ndim == 3)
    return list(dict.fromkeys(".".join(tail) for tail in fused if "expert" in tail[0]))


def default_model(model_type: str) -> PreTrainedModel | None:
    """Return the model of a type's default configuration; None if it builds no model, or one with several towers."""
    for filled in _FILLED:
        try:
            config = CONFIG_MAPPING[model_type](**filled)
            if config.get_text_config() is not config:
                return None
            return built(config)
        except _UNBUILDABLE:
            continue
    return None


def architecture(model_type: str) -> dict[str, Any]:
    """Return the facts of one model_type; empty if its default configuration builds no model."""
    model = default_model(model_type)
    if model is None:
        return {"linear_modules": [], "expert_parameters": [], "defaults": {}}
    values = model.config.to_dict()
    return {
        "linear_modules": linear_modules(model),
        "expert_parameters": expert_parameters(model),
        "defaults": {name: values[name] for name in (*SIZE_FIELDS, *SHAPE_FIELDS) if values.get(name) is not None},
    }


def as_json(facts: dict[str, dict[str, Any]]) -> str:
    """Return the file's text: one architecture per line, so that a diff shows what a new transformers changed."""
    lines = (f"    {json.dumps(name)}: {json.dumps(entry, sort_keys=True)}" for name, entry in sorted(facts.items()))
    source = f"counted on the meta device with transformers {transformers.__version__} by scripts/architectures.py"
    body = ",\n".join(lines)
    return f'{{\n  "source": {json.dumps(source)},\n  "architectures": {{\n{body}\n  }}\n}}\n'


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    found = {name: architecture(name) for name in model_types()}
    (assets() / "architectures.json").write_text(as_json(found), encoding="utf-8")
    print(f"{len(found)} architectures, {sum(bool(entry['linear_modules']) for entry in found.values())} with modules")
