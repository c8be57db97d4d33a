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
from catalog.shapes import architectures, shape, tower_with_defaults, with_defaults
from specs import CatalogError, LorafitError, ModelSpec
from specs.paths import assets

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
        return described(local.config_of(path), name=wanted, source=f"{path.name} in {path.parent.name or path.parent}")
    billions = sizes.billions(wanted)
    if billions is not None:
        return described(sizes.reference_config(billions), name=wanted, source=sizes.SOURCE)
    if _HUB_ID.fullmatch(wanted):
        return _from_hub(wanted)
    matching = _matching(wanted)
    if matching is not None:
        return shipped(matching)
    raise CatalogError("model", f"is not in the catalog, and not a file or a size{nearest(wanted)}", wanted, _WAY_OUT)


def known_modules(text: str) -> tuple[str, ...]:
    """Return the linear modules of a shipped model or a folder; empty for others, which only the Hub knows."""
    if text.strip().lower() not in _spellings() and local.config_file(text) is None:
        return ()
    try:
        return find(text).linear_modules
    except LorafitError:
        return ()


@functools.cache
def shipped(name: str) -> ModelSpec:
    """Return a shipped model by its exact name."""
    entry = _index()[name.lower()][1]
    changes = entry.get("aliases", {}).get(name, {})
    spec = ModelSpec.from_config({**entry["config"], **changes}, name=name, source=entry["config_source"])
    return dataclasses.replace(spec, **_counted(entry))


def described(config: Mapping[str, Any], *, name: str, source: str) -> ModelSpec:
    """Return the model of a ``config.json``, with the facts of its architecture or of a shipped model of its shape.

    Raises:
        SpecError: If the configuration is broken.
        CatalogError: If transformers cannot train such a model, or LoRAFit will not load it.
    """
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {**config, "text_config": tower_with_defaults(text, config)}
    _refuse_without_attention(config, name)
    spec = ModelSpec.from_config(with_defaults(config), name=name, source=source)
    local.refuse_unloadable(config, name)
    if spec.model_type not in architectures():
        raise CatalogError(f"{name}: model_type", _unknown_type(spec.model_type), spec.model_type)
    equal = _by_shape().get(shape(spec))
    if equal is not None:
        return dataclasses.replace(spec, **_counted(_index()[equal.lower()][1]))
    known = architectures()[spec.model_type]
    return dataclasses.replace(
        spec,
        num_params=sizes.llama_params(spec) if spec.model_type == "llama" else None,
        linear_modules=_linear_modules(known["linear_modules"], spec.config),
        expert_parameters=tuple(known["expert_parameters"]) if spec.is_moe else (),
    )


def nearest(text: str) -> str:
    """Return the shipped names closest to a text, as the end of a sentence; empty if none is close."""
    close = difflib.get_close_matches(text.lower(), _spellings(), n=6, cutoff=0.5)
    found = list(dict.fromkeys(_spellings()[name] for name in close))[:3]
    return f" (nearest: {', '.join(found)})" if found else ""


# State-space and recurrent models: PEFT adds no adapter to them, and their steps depend on the length token by token.
_WITHOUT_ATTENTION = ("falcon_mamba", "mamba", "rwkv", "xlstm")

_WAY_OUT = "Give a shipped name, the path of a config.json, a size such as 7B, or a Hub id such as Qwen/Qwen3-8B"


def _from_hub(name: str) -> ModelSpec:
    # huggingface_hub is imported only when a Hub id is asked for, so that offline use does not pay for it.
    hub = importlib.import_module("catalog.hub")
    config = hub.config(name, nearest=nearest(name))
    return described(config, name=name, source=f"config.json of https://huggingface.co/{name}")


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


def _refuse_without_attention(config: Mapping[str, Any], name: str) -> None:
    """Refuse state-space and recurrent models by their type: their files name no attention heads."""
    model_type = str(config.get("model_type"))
    if model_type in architectures() and model_type.startswith(_WITHOUT_ATTENTION):
        way_out = "Choose a model with attention layers"
        raise CatalogError(f"{name}: model_type", "must be that of a model with attention layers", model_type, way_out)


def _unknown_type(model_type: str) -> str:
    close = difflib.get_close_matches(model_type.lower(), architectures(), n=3, cutoff=0.6)
    offered = f" (nearest: {', '.join(close)})" if close else ""
    return f"is not a causal language model in transformers{offered}"


def _linear_modules(by_default: Sequence[str], config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return an architecture's linear modules; without ``q_lora_rank``, latent attention projects queries at once."""
    if "q_a_proj" not in by_default or config.get("q_lora_rank", 0) is not None:
        return tuple(by_default)
    return ("q_proj", *(name for name in by_default if name not in {"q_a_proj", "q_b_proj"}))


def _counted(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num_params": entry["num_params"],
        "linear_modules": tuple(entry["linear_modules"]),
        "expert_parameters": tuple(entry.get("expert_parameters", ())),
    }


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
