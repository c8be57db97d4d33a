"""Which class of transformers builds a model, and which part of the model text passes through."""

import re
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from specs import SpecError, TraceError

# Layers that attend to an image: without one, Llama 3.2 Vision and Idefics skip them.
_CROSS_ATTENTION = re.compile(r"CrossAttention\w*Layer$")

# The whole Llama 4 keeps its head inside the text model, where TRL 1.16's chunked loss does not find it.
_TEXT_ALONE = frozenset({"llama4"})


def auto_class(config: PretrainedConfig) -> Any:
    """Return the class that loads a model to continue text, with all of its towers.

    The causal class of Llama 3.2 Vision and of Qwen3.5 leaves their towers out: what it trains cannot be merged into
    the model of the Hub, and its adapter has names that a server of that model does not know.

    Raises:
        SpecError: If models of this type do not continue text.
    """
    if config.is_encoder_decoder or _reads_both_ways(config):
        kind = "an encoder and a decoder" if config.is_encoder_decoder else "an encoder, which reads in both directions"
        rule = f"is {kind}, and cannot be trained to continue text"
        raise SpecError(config.model_type, rule, None, "Choose a decoder such as Llama, Qwen or Gemma")
    kinds = (AutoModelForCausalLM, AutoModelForMultimodalLM)
    alone = config.get_text_config() is config or config.model_type in _TEXT_ALONE
    for found in kinds if alone else reversed(kinds):
        if type(config) in found._model_mapping and _has_step(found._model_mapping[type(config)]):
            return found
    rule = "is no model that continues text in this version of transformers"
    raise SpecError(config.model_type, rule, None, "Choose a causal or multimodal language model")


def _has_step(kind: type[nn.Module]) -> bool:
    """Return whether a class computes something itself: the whole Qwen Omni only generates, with its parts in turn."""
    return kind.forward is not nn.Module.forward


def _reads_both_ways(config: PretrainedConfig) -> bool:
    """Return whether a model is an encoder such as BERT, which only ``is_decoder`` turns into a causal model."""
    return getattr(config, "is_decoder", None) is False and config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def text_tower(model: nn.Module) -> nn.Module:
    """Return the part of a model that text passes through; the whole model if it has no other part."""
    if not isinstance(model, PreTrainedModel) or model.config.get_text_config() is model.config:
        return model
    found = model.get_decoder()
    return found if isinstance(found, nn.Module) else model


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the list of the text decoder's layers: as long as the configuration says, or else the longest.

    An audio or vision encoder beside it may have more layers.

    Raises:
        TraceError: If there is no list of layers.
    """
    decoder = model.get_decoder() if isinstance(model, PreTrainedModel) else model
    depth = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    lists = _lists(decoder) or _lists(model)
    found = max(lists, key=lambda one: (len(one) == depth, len(one)), default=None)
    if found is None:
        raise TraceError(type(model).__name__, "has no list of decoder layers", None, "Choose a decoder-only model")
    return found


def _lists(model: nn.Module) -> list[nn.ModuleList]:
    """Return all lists of modules with weights."""
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return [one for one in lists if next(one.parameters(), None) is not None]


def beyond_text(model: nn.Module) -> str:
    """Return an expression for the modules that text does not reach, such as a vision tower; empty if it reaches all.

    An adapter there would never learn anything, and be saved, merged and served all the same.
    """
    tower = text_tower(model)
    path = next((name for name, module in model.named_modules() if module is tower), "")
    outside = [rf"(?!{re.escape(path)}\.).*"] if path and _has_linear_outside(model, path) else []
    skipped = (name for name, module in model.named_modules() if is_skipped(module))
    return "|".join([*outside, *(rf"{re.escape(name)}\..*" for name in skipped)])


def is_skipped(module: nn.Module) -> bool:
    """Return whether a module is a layer that text alone does not pass through."""
    return _CROSS_ATTENTION.search(type(module).__name__) is not None


def _has_linear_outside(model: nn.Module, path: str) -> bool:
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return any(
        isinstance(module, nn.Linear) and module is not head and not name.startswith(f"{path}.")
        for name, module in model.named_modules()
    )
