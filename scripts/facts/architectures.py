"""Write assets/architectures.json: what transformers builds by default for each type of language model that it has.

The catalog never imports torch, so the facts it needs about an architecture are counted once here, on the ``meta``
device: ``python -m scripts.facts.architectures``. A test compares the file with the installed transformers.
"""

import json
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from catalog.shapes import SHAPE_FIELDS, SIZE_FIELDS
from specs import SpecError
from specs.paths import assets
from trainer.model.layers import layers
from trainer.model.towers import auto_class

# Some default configurations cannot be built because they leave these out; the module names do not depend on them.
_FILLED: tuple[dict[str, int], ...] = ({}, {"head_dim": 128})
UNBUILDABLE = (
    AssertionError,
    AttributeError,
    ImportError,
    KeyError,
    TypeError,
    ValueError,
    StrictDataclassClassValidationError,
)


def model_types() -> tuple[str, ...]:
    """Return every model_type that transformers has a language model for, also one that reads images or sound."""
    return tuple(dict.fromkeys((*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES)))


def built(config: PretrainedConfig) -> PreTrainedModel:
    """Return the language model of a configuration without allocating memory for its weights."""
    with torch.device("meta"):
        return _class(config).from_config(config)


def _class(config: PretrainedConfig) -> Any:
    """Return the class that the trainer uses; encoders, which it refuses, have modules all the same."""
    try:
        return auto_class(config)
    except SpecError:
        return AutoModelForCausalLM


def linear_modules(model: PreTrainedModel) -> list[str]:
    """Return the last name parts that an adapter may target: every Linear and Conv1D except output head and routers."""
    return list(layers(model).names)


def expert_parameters(model: PreTrainedModel) -> list[str]:
    """Return the names of 3-D parameters that hold all experts of a layer, such as ``experts.down_proj``."""
    return list(layers(model).parameters)


def default_model(model_type: str) -> PreTrainedModel | None:
    """Return the model of a type's default configuration; None if it builds no model."""
    for filled in _FILLED:
        try:
            return built(CONFIG_MAPPING[model_type](**filled))
        except UNBUILDABLE:
            continue
    return None


def architecture(model_type: str) -> dict[str, Any]:
    """Return the facts of one model_type; empty if its default configuration builds no model."""
    model = default_model(model_type)
    if model is None:
        return {"linear_modules": [], "expert_parameters": [], "defaults": {}, **_tower(model_type)}
    values = model.config.get_text_config().to_dict()
    return {
        "linear_modules": linear_modules(model),
        "expert_parameters": expert_parameters(model),
        "defaults": {name: values[name] for name in (*SIZE_FIELDS, *SHAPE_FIELDS) if values.get(name) is not None},
        **_tower(model_type),
    }


def _tower(model_type: str) -> dict[str, Any]:
    """Return the type of the part that text passes through, in a model with others; empty for a model of text alone.

    ``flat`` says that its sizes may also stand outside ``text_config``, as in the first files of Qwen2-VL;
    ``auto_class`` is the class that loads it, where that is not the one for models of text alone.
    """
    try:
        config = CONFIG_MAPPING[model_type]()
        text = config.get_text_config()
    except UNBUILDABLE:
        return {}
    if text is config:
        return {}
    loaded_by = _class(config).__name__
    other = {} if loaded_by == AutoModelForCausalLM.__name__ else {"auto_class": loaded_by}
    return {"text": text.model_type, **({"flat": True} if _reads_flat(model_type) else {}), **other}


def _reads_flat(model_type: str) -> bool:
    sizes = {"hidden_size": 96, "num_hidden_layers": 3}
    try:
        text = CONFIG_MAPPING[model_type](**sizes).get_text_config()
    except UNBUILDABLE:
        return False
    return all(getattr(text, name, None) == value for name, value in sizes.items())


def as_json(facts: dict[str, dict[str, Any]]) -> str:
    """Return the file's text: one architecture per line, so that a diff shows what a new transformers changed."""
    lines = (f"    {json.dumps(name)}: {json.dumps(entry, sort_keys=True)}" for name, entry in sorted(facts.items()))
    source = (
        f"counted on the meta device with transformers {transformers.__version__} by scripts/facts/architectures.py"
    )
    body = ",\n".join(lines)
    return f'{{\n  "source": {json.dumps(source)},\n  "architectures": {{\n{body}\n  }}\n}}\n'


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    found = {name: architecture(name) for name in model_types()}
    (assets() / "architectures.json").write_text(as_json(found), encoding="utf-8")
    print(f"{len(found)} architectures, {sum(bool(entry['linear_modules']) for entry in found.values())} with modules")
