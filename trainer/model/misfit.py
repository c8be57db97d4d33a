"""Why transformers builds no model from a configuration, in a sentence of our own: which field, and what it holds."""

import inspect
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from specs import SpecError

_OWN_FILE = "Use the model's own config.json"
_NEEDS_PACKAGE = re.compile(r"requires the (\S+) library")
_NAMED = re.compile(r"Validation error for field '(\w+)'")
_LACKING = re.compile(r"Config' object has no attribute '(\w+)'")
_WORD = re.compile(r"\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b")
_QUOTED = re.compile(r"'(\w+)'")
_READ = re.compile(r"\bconfig\.(\w+)")
_OWN = re.compile(r"\bself\.(\w+)")
_RENAMED = {"rope_parameters": "rope_scaling", "padding_idx": "pad_token_id"}
"""What transformers 5 and PyTorch call fields that files have under another name."""


def misfit(error: BaseException, config: Mapping[str, Any]) -> SpecError:
    """Return what is to be said of a configuration with which transformers has failed.

    Args:
        error: What transformers, or PyTorch beneath it, has raised.
        config: The configuration, as in ``config.json``.
    """
    model_type = str(config.get("model_type") or "config.json")
    package = _NEEDS_PACKAGE.search(str(error))
    if package:
        return SpecError(model_type, f"needs the package {package[1]}", None, f"Run pip install {package[1]}")
    lacking, named = _LACKING.search(str(error)), field_at_fault(error, config)
    if named is None:
        return SpecError(model_type, "is a configuration that transformers builds no model from", None, _OWN_FILE)
    value = None if lacking else _value(config, named)
    missing = "is missing, and transformers builds no such model without it"
    rule = missing if value is None else "must be a value that transformers builds this model with"
    return SpecError(f"{model_type}: {named}", rule, value, _OWN_FILE)


def field_at_fault(error: BaseException, config: Mapping[str, Any]) -> str | None:
    """Return the field of a configuration that an error is about: the one it names, or that the failing line reads."""
    message = str(error)
    found = _NAMED.search(message) or _LACKING.search(message)
    if found:
        return found[1]
    candidates = [*_named(message, config)]
    if not candidates and not isinstance(error, ValueError):  # transformers' own checks say what they are about
        candidates = [*_in_the_file(_read_where_it_failed(error), config)]
    missing = (field for field in candidates if _value(config, field) is None)
    return next(missing, candidates[0] if candidates else None)


def _named(message: str, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fields that a message names, or whose value it quotes."""
    values = dict(_fields(config))
    for word in _WORD.findall(message.lower()):
        field = word if word in values else _RENAMED.get(word, word)
        if field in values:
            yield field
    quoted = set(_QUOTED.findall(message))
    yield from (field for field, value in values.items() if isinstance(value, str) and value in quoted)


def _in_the_file(fields: Iterable[str], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield fields as files of this type call them."""
    kind = CONFIG_MAPPING[config["model_type"]] if config.get("model_type") in CONFIG_MAPPING else PretrainedConfig
    yield from (kind.attribute_map.get(field, field) for field in fields)


def _fields(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield all fields, also those inside others."""
    for name, value in config.items():
        yield str(name), value
        if isinstance(value, Mapping):
            yield from _fields(value)


def _value(config: Mapping[str, Any], field: str) -> Any:
    """Return the value of a field, of the outermost part that has it; None if there is none."""
    if config.get(field) is not None:
        return config[field]
    inner = (_value(part, field) for part in config.values() if isinstance(part, Mapping))
    return next((value for value in inner if value is not None), None)


def _read_where_it_failed(error: BaseException) -> Iterator[str]:
    """Yield the fields that the innermost failing line of transformers reads, itself or through what it has kept."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _is_of_transformers(frame)]
    for frame, number in reversed(frames):
        line = _line(frame, number)
        kept = dict(_kept_fields(frame.f_locals.get("self")))
        own = [kept[name] for name in _OWN.findall(line) if name in kept]
        found = [name for name in (*_READ.findall(line), *own) if not _is_computed(name, frame)]
        if found:
            yield from found
            return


def _is_computed(field: str, frame: FrameType) -> bool:
    """Return whether a configuration computes a field from others, so that no file has it."""
    owner = frame.f_locals.get("self")
    config = frame.f_locals.get("config", getattr(owner, "config", owner))
    return isinstance(getattr(type(config), field, None), property)


def _is_of_transformers(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("transformers.")


def _line(frame: FrameType, number: int) -> str:
    lines, first = inspect.getsourcelines(frame.f_code)
    return lines[number - max(first, 1)]


def _kept_fields(owner: object) -> Iterator[tuple[str, str]]:
    """Yield the attributes that a module has taken from its configuration, and the fields that they come from."""
    if owner is None:
        return
    try:
        source = inspect.getsource(type(owner).__init__)
    except (OSError, TypeError):
        return
    yield from re.findall(r"self\.(\w+) = .*?\bconfig\.(\w+)", source)
