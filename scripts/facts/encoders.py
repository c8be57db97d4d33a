"""Write assets/encoders.json: which models transformers trains for each task, and the shapes of those that only read.

``python -m scripts.facts.encoders``. Types that generate text are described in assets/architectures.json.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
import transformers
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from catalog.shapes import SHAPE_FIELDS, SIZE_FIELDS, architectures
from scripts.facts.architectures import UNBUILDABLE
from specs import TASK_TYPES, SpecError
from specs.paths import assets
from trainer.model.layers import layers
from trainer.model.towers import auto_class

TRAINED: Mapping[str, Collection[str]] = {
    "SEQ_CLS": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "TOKEN_CLS": MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "QUESTION_ANS": MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "SEQ_2_SEQ_LM": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "FEATURE_EXTRACTION": MODEL_MAPPING_NAMES,
}
"""The types of models that transformers trains for each task of ``specs.TASK_TYPES`` but text generation."""
ONLY_BUILT = frozenset({"QUESTION_ANS", "SEQ_2_SEQ_LM"})
"""Tasks for models that are described here. Answers are found by those that read in both directions: of a decoder's
checkpoint transformers 5.23 does not find the layers, which ``LlamaForQuestionAnswering`` calls otherwise."""


def generates(config: PretrainedConfig) -> bool:
    """Return whether transformers trains a model to continue text, and not only to read it in both directions."""
    try:
        auto_class(config)
    except SpecError:
        return False
    return True


def encoder(model_type: str) -> dict[str, Any] | None:
    """Return the facts of a type that only reads text; None for all others, and where its default builds no model."""
    try:
        config = CONFIG_MAPPING[model_type]()
        if config.get_text_config() is not config or config.is_encoder_decoder or generates(config):
            return None
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except UNBUILDABLE:
        return None
    return _described(config, model)


def encoder_decoder(model_type: str) -> dict[str, Any] | None:
    """Return the facts of a type whose encoder reads text and whose decoder writes text; None for all others."""
    try:
        config = CONFIG_MAPPING[model_type]()
        hears = any("speech" in name for name in vars(config))
        if hears or config.get_text_config() is not config or not config.is_encoder_decoder:
            return None
        with torch.device("meta"):
            model = AutoModelForSeq2SeqLM.from_config(config)
    except UNBUILDABLE:
        return None
    return _described(config, model)


def _described(config: PretrainedConfig, model: PreTrainedModel) -> dict[str, Any] | None:
    """Return the facts of a built model; None if an adapter has nowhere to go."""
    names = layers(model).names
    if not names:
        return None
    values = config.to_dict()
    return {
        "linear_modules": list(names),
        "expert_parameters": [],
        "defaults": {name: values[name] for name in (*SIZE_FIELDS, *SHAPE_FIELDS) if values.get(name) is not None},
        "has_sdpa": bool(model._supports_sdpa),
    }


def as_json() -> str:
    """Return the file's text, one architecture a line."""
    encoders = {name: found for name in sorted(TRAINED["SEQ_CLS"]) if (found := encoder(name)) is not None}
    pairs = {name: found for name in sorted(TRAINED["SEQ_2_SEQ_LM"]) if (found := encoder_decoder(name)) is not None}
    facts = {**encoders, **pairs}
    lines = (f"    {json.dumps(name)}: {json.dumps(entry, sort_keys=True)}" for name, entry in sorted(facts.items()))
    source = f"counted on the meta device with transformers {transformers.__version__} by scripts/facts/encoders.py"
    body = ",\n".join(lines)
    known = json.dumps({task: [*_trained(task, pairs if task == "SEQ_2_SEQ_LM" else encoders)] for task in TRAINED})
    return f'{{\n  "source": {json.dumps(source)},\n  "tasks": {known},\n  "architectures": {{\n{body}\n  }}\n}}\n'


def _trained(task: str, encoders: Collection[str]) -> Iterator[str]:
    """Yield the types that a task is trained with, in order; embeddings are those of text alone."""
    decoders = {name for name, known in architectures().items() if "text" not in known}
    fitting = {*encoders, *decoders} if TASK_TYPES[task].embeds else encoders
    everything = task not in ONLY_BUILT and not TASK_TYPES[task].embeds
    yield from (name for name in sorted(TRAINED[task]) if everything or name in fitting)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    (assets() / "encoders.json").write_text(as_json(), encoding="utf-8")
