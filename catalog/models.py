"""The model a person names: a shipped one, a local ``config.json``, a size such as ``7B``, or a Hub id."""

import dataclasses
import difflib
import functools
import importlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from catalog import local, sizes
from catalog.shapes import architectures, completed, facts, shape, task_types, task_types_of
from specs import CatalogError, ModelSpec
from specs.model import text_tower
from specs.paths import assets
from specs.stored import EXPANDED, fixed_fields, stored_in
from specs.targets import Layers

# Owner and repository as the Hub allows them: huggingface_hub.utils.validate_repo_id.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def names() -> tuple[str, ...]:
    """Return the names of all shipped models; fine-tunes with the same tensors follow the model they come from."""
    return tuple(name for name, _ in _index().values())


def find(text: str) -> ModelSpec:
    """Return the model that a person means.

    Args:
        text: A shipped name (in any case; the part after ``/`` or words that identify it, such as ``llama 2 7b``, are
            enough), the path of a ``config.json`` or model folder, a size such as ``7B``, or a Hub id.

    Raises:
        CatalogError: If nothing of that name is found; the message offers the nearest names.
        SpecError: If the model's configuration is broken.
    """
    wanted = text.strip()
    if wanted.lower() in _spellings():
        return shipped(_spellings()[wanted.lower()])
    path = local.config_file(wanted)
    if path is not None:
        return described(
            local.model_config(path), name=wanted, source=f"{path.name} in {path.parent.name or path.parent}"
        )
    billions = sizes.billions(wanted)
    if billions is not None:
        return described(sizes.reference_config(billions), name=wanted, source=sizes.SOURCE)
    if is_hub_id(wanted):
        return _from_hub(wanted)
    matching = _matching(wanted)
    if matching is not None:
        return shipped(matching)
    raise CatalogError("model", f"is not in the catalog, and not a file or a size{nearest(wanted)}", wanted, _WAY_OUT)


def is_hub_id(text: str) -> bool:
    """Return whether a text has the form of a Hub id, owner and repository."""
    return _HUB_ID.fullmatch(text) is not None


@functools.cache
def shipped(name: str) -> ModelSpec:
    """Return a shipped model by its exact name."""
    entry = _index()[name.lower()][1]
    changes = entry.get("aliases", {}).get(name, {})
    spec = ModelSpec.from_config({**entry["config"], **changes}, name=name, source=entry["config_source"])
    return _counted(_of_its_type(spec), entry)


def described(config: Mapping[str, Any], *, name: str, source: str) -> ModelSpec:
    """Return the model of a ``config.json``, with the facts of its architecture or of a shipped model of its shape.

    Raises:
        SpecError: If the configuration is broken.
        CatalogError: If transformers cannot train such a model, or LoRAFit will not load it.
    """
    config = completed(local.with_quantization(config, {}))
    _refuse_undescribed(config, name)
    _refuse_encoder_and_decoder(config, name)
    _refuse_without_text(config, name)
    spec = ModelSpec.from_config(config, name=name, source=source)
    local.refuse_quantized(config, name)
    _refuse_quantized_mixture(spec)
    _refuse_unknown(spec.model_type, config, name)
    spec = dataclasses.replace(_of_its_type(spec), notes=_notes(config, spec.model_type))
    equal = _by_shape().get(shape(spec))
    if equal is not None:
        return _counted(spec, _index()[equal.lower()][1])
    known = facts(spec)
    return dataclasses.replace(
        spec,
        num_params=sizes.llama_params(spec) if spec.model_type == "llama" else None,
        linear_modules=_linear_modules(known["linear_modules"], spec.text_config),
        expert_parameters=tuple(known["expert_parameters"]) if spec.is_moe else (),
    )


def _of_its_type(spec: ModelSpec) -> ModelSpec:
    """Return a model with what transformers does with its type: the tasks, and the class that loads it."""
    loaded_by = architectures().get(spec.model_type, {}).get("auto_class", spec.auto_class)
    known = task_types_of(spec.model_type, embeds=spec.embedding is not None)
    return dataclasses.replace(spec, task_types=known, auto_class=loaded_by)


def nearest(text: str) -> str:
    """Return the shipped names closest to a text, as the end of a sentence; empty if none is close."""
    close = difflib.get_close_matches(text.lower(), _spellings(), n=6, cutoff=0.5)
    found = list(dict.fromkeys(_spellings()[name] for name in close))[:3]
    return f" (nearest: {', '.join(found)})" if found else ""


# Recurrent models alone, whose files name neither heads nor the other sizes of a ModelSpec.
_UNDESCRIBED = frozenset({"falcon_mamba", "mamba", "rwkv", "xlstm"})

_WAY_OUT = "Give a shipped name, the path of a config.json, a size such as 7B, or a Hub id such as Qwen/Qwen3-8B"


def _from_hub(name: str) -> ModelSpec:
    # huggingface_hub is imported only when a Hub id is asked for, so that offline use does not pay for it.
    hub = importlib.import_module("catalog.hub")
    config = hub.config(name, nearest=nearest(name))
    return described(config, name=name, source=f"config.json of https://huggingface.co/{name}")


def _refuse_without_text(config: Mapping[str, Any], name: str) -> None:
    """Refuse a file of several towers that lacks the text tower's part: transformers would build its default sizes."""
    known = architectures().get(str(config.get("model_type")), {})
    if known.get("text") and not known.get("flat") and text_tower(dict(config)) == config:
        rule = f"is missing, and {config.get('model_type')} reads the sizes of its text model nowhere else"
        raise CatalogError(f"{name}: text_config", rule, None, "Use the model's own config.json")


def _matching(text: str) -> str | None:
    """Return the shipped name with all words of a text and the fewest others; None if no or several models match."""
    words = _words(text)
    others = {name: len(_words(name.rpartition("/")[2]) - words) for name in names() if words <= _words(name)}
    closest = [name for name, number in others.items() if number == min(others.values())]
    counts = {shipped(name).num_params for name in closest}
    return closest[0] if len(words) > 1 and len(counts) == 1 else None


def _words(text: str) -> frozenset[str]:
    """Return the words and numbers of a name: ``Qwen2.5-7B`` has qwen, 2.5 and 7b."""
    return frozenset(re.findall(r"[a-z]+|\d+(?:\.\d+)?[a-z]*", text[:200].lower()))


def _refuse_undescribed(config: Mapping[str, Any], name: str) -> None:
    """Refuse recurrent models by their type where their files name no heads."""
    model_type = str(config.get("model_type"))
    if model_type in _UNDESCRIBED:
        way_out = "Choose a model with attention layers, or Mamba-2"
        raise CatalogError(f"{name}: model_type", "must be that of a model with heads", model_type, way_out)


def _refuse_encoder_and_decoder(config: Mapping[str, Any], name: str) -> None:
    """Refuse models of two stacks that are not trained, by what their files say: they name the heads of each stack."""
    model_type = str(config.get("model_type"))
    if "SEQ_2_SEQ_LM" in task_types(model_type):
        return
    if model_type in architectures() and (config.get("is_encoder_decoder") or "decoder_attention_heads" in config):
        rule = "is of an encoder and a decoder, which are not trained here yet"
        way_out = "Choose a decoder such as Llama, Qwen or Gemma"
        raise CatalogError(f"{name}: model_type", rule, model_type, way_out)


def _refuse_unknown(model_type: str, config: Mapping[str, Any], name: str) -> None:
    """Refuse an architecture that transformers lacks, whether or not the file brings code for it."""
    if model_type in architectures():
        return
    if config.get("auto_map"):
        rule = "needs its own code (trust_remote_code), which LoRAFit never runs; transformers has no such model_type"
        raise CatalogError(name, rule, model_type, "Choose another model")
    raise CatalogError(f"{name}: model_type", _unknown_type(model_type), model_type)


def _refuse_quantized_mixture(spec: ModelSpec) -> None:
    """Refuse a mixture that bitsandbytes has quantized: transformers 5 stacks experts, which are stored one by one."""
    if spec.is_moe and fixed_fields(spec.config):
        rule = "a mixture whose experts are already quantized cannot be loaded"
        raise CatalogError(f"{spec.name}: quantization_config", rule, "bitsandbytes", "Choose the 16-bit model")


def _notes(config: Mapping[str, Any], model_type: str) -> tuple[str, ...]:
    """Return what a person should know about how a file was read."""
    own_code = f"auto_map is ignored: transformers' own {model_type} is used, and no code of the model is run."
    towers = f"{model_type} also reads images or sound. It is trained on text alone; training on those is a later step."
    has_towers = "text" in architectures().get(model_type, {})
    said = {own_code: config.get("auto_map"), towers: has_towers, _stored_note(config): stored_in(config)}
    return tuple(sentence for sentence, holds in said.items() if holds)


def _stored_note(config: Mapping[str, Any]) -> str:
    """Return how a checkpoint that is quantized is trained."""
    kind = stored_in(config)
    if kind in EXPANDED:
        return f"The weights are stored in {EXPANDED[kind]}: they are expanded to 16 bit in RAM while they are loaded."
    how = f"in {kind.replace('bit', ' bit')} by bitsandbytes" if fixed_fields(config) else f"in {kind.upper()}"
    return f"The weights are stored {how} and are trained as they are: the file's own quantization counts."


def _unknown_type(model_type: str) -> str:
    close = difflib.get_close_matches(model_type.lower(), architectures(), n=3, cutoff=0.6)
    offered = f" (nearest: {', '.join(close)})" if close else ""
    return f"is not a language model of transformers{offered}"


def _linear_modules(by_default: Sequence[str], config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return an architecture's linear modules; without ``q_lora_rank``, latent attention projects queries at once."""
    if "q_a_proj" not in by_default or config.get("q_lora_rank", 0) is not None:
        return tuple(by_default)
    return ("q_proj", *(name for name in by_default if name not in {"q_a_proj", "q_b_proj"}))


def _counted(spec: ModelSpec, entry: Mapping[str, Any]) -> ModelSpec:
    """Return a model with the count and the layers of a shipped one of the same shape."""
    counted = dataclasses.replace(spec, num_params=entry["num_params"])
    layers = _layers().get(entry["name"])
    if layers is not None:
        return counted.with_layers(layers)
    experts = tuple(entry.get("expert_parameters", ()))
    return dataclasses.replace(counted, linear_modules=tuple(entry["linear_modules"]), expert_parameters=experts)


@functools.cache
def _layers() -> Mapping[str, Layers]:
    """Return the layers of every shipped model, as its configuration builds them."""
    found = json.loads((assets() / "layers.json").read_text(encoding="utf-8"))["layers"]
    return {name: Layers.from_dict(entry) for name, entry in found.items()}


@functools.cache
def _index() -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    """Return the spelling and the entry of each shipped name, keyed by the name in lower case."""
    entries = json.loads((assets() / "models.json").read_text(encoding="utf-8"))["models"]
    found = ((name, entry) for entry in entries for name in (entry["name"], *entry.get("aliases", ())))
    return {name.lower(): (name, entry) for name, entry in found}


@functools.cache
def _spellings() -> Mapping[str, str]:
    """Return the spelling of each shipped name, keyed in lower case by the full name and by its part after ``/``."""
    full = [name for name, _ in _index().values()]
    tails = {name.rpartition("/")[2].lower(): name for name in reversed(full)}
    return {**tails, **{name.lower(): name for name in full}}


@functools.cache
def _by_shape() -> Mapping[tuple[Any, ...], str]:
    """Return the shipped model of each shape."""
    originals = [entry["name"] for _, entry in _index().values()]
    return {shape(shipped(name)): name for name in reversed(originals)}
