"""Messages of a conversation as data sets write them: OpenAI's, ShareGPT's and Glaive's words, made one.

Sources:
    OpenAI's messages: https://platform.openai.com/docs/api-reference/chat; reasoning_content as in
    https://huggingface.co/docs/transformers/chat_templating; LLaMA-Factory, data/README.md (ShareGPT, function calls);
    Axolotl, docs/dataset-formats/conversation.qmd (weight, train).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from trainer.data.row import UnreadableError

RESERVED = "\ufdd0\ufdd1\ufdd2"
"""Noncharacters that mark places while a template is rendered, so that no text of a row may have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one side says."""

    role: str
    """system, user, assistant, tool, or text for raw text without sides."""
    content: str
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What a chat template reads besides: ``tool_calls``, ``tool_call_id``, ``name``, ``reasoning_content``."""
    learned: bool = True
    """Whether an answer counts in the loss."""

    def message(self) -> dict[str, Any]:
        """Return it as chat templates read it."""
        return {"role": self.role, "content": self.content, **self.more}


ROLES: Mapping[str, str] = MappingProxyType(
    {
        "system": "system",
        "developer": "system",
        "user": "user",
        "human": "user",
        "assistant": "assistant",
        "gpt": "assistant",
        "bot": "assistant",
        "model": "assistant",
        "chatgpt": "assistant",
        "tool": "tool",
        "function": "tool",
        "observation": "tool",
        "function_response": "tool",
        "tool_response": "tool",
        "ipython": "tool",
    }
)
CALLS = frozenset({"function_call", "tool_call", "tool_calls"})
"""Roles of messages whose text is a call, or a list of calls, as JSON."""

_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value")
_THOUGHT_KEYS = ("reasoning_content", "thinking", "reasoning")
_LEARNED_KEYS = frozenset({"weight", "train", "training"})
_TOLD = {"true": 1, "false": 0, "1": 1, "0": 0, "1.0": 1, "0.0": 0}
_MORE_KEYS = frozenset({*_THOUGHT_KEYS, "tool_calls", "function_call", "tool_call_id", "name"})
READ_KEYS = frozenset({*_ROLE_KEYS, *_CONTENT_KEYS, *_LEARNED_KEYS, *_MORE_KEYS})


def turns(messages: Any) -> tuple[Turn, ...]:
    """Return the turns of a list of messages, or of its JSON text.

    Raises:
        UnreadableError: If a message cannot be read, with its number and key.
    """
    entries = parsed(messages)
    if not isinstance(entries, list | tuple) or not entries:
        raise UnreadableError("must have a list of messages")
    return tuple(_turn(entry, number) for number, entry in enumerate(entries, start=1))


def tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Return the tools of a row: a list of JSON schemas, or its JSON text; bare functions are wrapped as OpenAI's are.

    Raises:
        UnreadableError: If they are neither.
    """
    entries = parsed(value)
    if entries is None or entries in ("", []):
        return ()
    if isinstance(entries, dict):
        entries = [entries]
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, dict) for entry in entries):
        raise UnreadableError("tools must be a list of JSON schemas")
    return tuple(entry if "function" in entry else {"type": "function", "function": entry} for entry in entries)


def unused_keys(messages: Any) -> frozenset[str]:
    """Return the keys of messages that hold something and are not read."""
    entries = parsed(messages)
    if not isinstance(entries, list | tuple):
        return frozenset()
    return frozenset(key for entry in entries if isinstance(entry, dict) for key in _unread(entry))


def _unread(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys of a message that hold something and are not read, also since another key says the same."""
    for key in entry.keys() - READ_KEYS:
        if entry[key] not in (None, "", [], {}):
            yield key
    thoughts = [key for key in _THOUGHT_KEYS if entry.get(key)]
    yield from (key for key in thoughts[1:] if entry[key] != entry[thoughts[0]])
    if entry.get("tool_calls") and entry.get("function_call"):
        yield "function_call"


def parsed(value: Any) -> Any:
    """Return the value of a column; a text that is a JSON list or object counts as that."""
    if isinstance(value, str) and value[:1] in {"[", "{"}:
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def is_messages(value: Any) -> bool:
    """Return whether a value is a list of messages, in any of the dialects, or its JSON text."""
    entries = parsed(value)
    return (
        isinstance(entries, list | tuple)
        and bool(entries)
        and all(isinstance(entry, dict) and (entry.get("role") or entry.get("from")) for entry in entries)
    )


def text(value: Any, name: str = "content") -> str:
    """Return words that must be text, or a list of parts that are text.

    Raises:
        UnreadableError: If they are something else, such as an image, or hold half a character.
    """
    if isinstance(value, list | tuple):
        if len(value) > 1 and any(isinstance(entry, str) for entry in value):
            raise UnreadableError(f"{name} is a list of {len(value)} texts, and nothing says which is meant")
        value = "".join(_part(entry, name) for entry in value)
    if not isinstance(value, str):
        raise UnreadableError(f"{name} must be text, got {type(value).__name__}")
    if not value.isascii():
        _require_characters(value, name)
    return value


def _part(entry: Any, name: str) -> str:
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, dict):
        raise UnreadableError(f"{name} must be a list of text parts, got {type(entry).__name__}")
    kind = entry.get("type", "text")
    if kind not in {"text", "input_text", "output_text"} or not isinstance(entry.get("text"), str):
        raise UnreadableError(f"{name} has a part of the type {kind}; only text is trained")
    words: str = entry["text"]
    return words


def _require_characters(value: str, name: str) -> None:
    """Refuse what no tokenizer can take, and the two marks that templates are read with."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UnreadableError(f"{name} has half a character (a lone surrogate)") from error
    if any(mark in value for mark in RESERVED):
        raise UnreadableError(f"{name} has a noncharacter of U+FDD0 to U+FDD2")


def _turn(entry: Any, number: int) -> Turn:
    if not isinstance(entry, dict):
        raise UnreadableError(f"message {number} must be an object, got {type(entry).__name__}")
    said = _first(entry, _ROLE_KEYS)
    said = said if isinstance(said, str) else str(said)
    if said in CALLS:
        return _calling(entry, number)
    role = ROLES.get(said)
    if role is None:
        raise UnreadableError(f"message {number} has the unknown role {said[:40]!r}")
    more = _more(entry, number)
    content = _content(entry, role, number)
    if content is None and not more.keys() & {"tool_calls", "reasoning_content"}:
        raise UnreadableError(f"message {number} has no content")
    return Turn(role=role, content=content or "", more=more, learned=_is_learned(entry, number))


def _content(entry: Mapping[str, Any], role: str, number: int) -> str | None:
    """Return the words of a message, or None; what a tool gives back may be any JSON."""
    value = _first(entry, _CONTENT_KEYS)
    if value is None:
        return None
    if role == "tool" and (isinstance(value, dict | int | float) or _is_plain_list(value)):
        value = json.dumps(value, ensure_ascii=False)
    return text(value, f"content of message {number}")


def _is_plain_list(value: Any) -> bool:
    """Return whether a list is data, and not the parts of a content."""
    return isinstance(value, list) and not all(isinstance(entry, dict) and "type" in entry for entry in value)


def _calling(entry: Mapping[str, Any], number: int) -> Turn:
    """Return a message whose text is one call or several."""
    calls = parsed(_first(entry, _CONTENT_KEYS))
    calls = [calls] if isinstance(calls, dict) else calls
    more = {**_more(entry, number), "tool_calls": _calls(calls, number)}
    return Turn(role="assistant", content="", more=more, learned=_is_learned(entry, number))


def _more(entry: Mapping[str, Any], number: int) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if entry.get("tools") or entry.get("functions"):
        raise UnreadableError(f"message {number} has tools; they are read from a column of that name")
    if not entry.keys() & _MORE_KEYS:
        return more
    calls = parsed(entry.get("tool_calls"))
    legacy = parsed(entry.get("function_call"))
    if calls or legacy:
        more["tool_calls"] = _calls(calls or [legacy], number)
    thought = next((entry[key] for key in _THOUGHT_KEYS if entry.get(key)), None)
    if thought is not None:
        more["reasoning_content"] = text(thought, f"reasoning of message {number}")
    for key in ("tool_call_id", "name"):
        if entry.get(key) not in (None, ""):
            more[key] = text(str(entry[key]), f"{key} of message {number}")
    return more


def _calls(value: Any, number: int) -> list[dict[str, Any]]:
    """Return calls in OpenAI's form, their arguments as objects, which is what chat templates expect."""
    if not isinstance(value, list | tuple) or not value:
        raise UnreadableError(f"tool_calls of message {number} must be a call or a list of calls as JSON")
    return [_call(entry, number) for entry in value]


def _call(entry: Any, number: int) -> dict[str, Any]:
    function = parsed(entry.get("function", entry)) if isinstance(entry, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UnreadableError(f"tool_calls of message {number} has a call without the name of a function")
    arguments = parsed(function.get("arguments", function.get("parameters")))
    if isinstance(arguments, str) and arguments.strip():
        raise UnreadableError(f"tool_calls of message {number} has arguments that are not valid JSON")
    called = {"name": function["name"], "arguments": arguments or {}}
    _require_characters(json.dumps(called, ensure_ascii=False), f"tool_calls of message {number}")
    identity = entry.get("id") if isinstance(entry, dict) else None
    return {**({"id": identity} if identity else {}), "type": "function", "function": called}


def _is_learned(entry: Mapping[str, Any], number: int) -> bool:
    for key in entry.keys() & _LEARNED_KEYS:
        value = _TOLD.get(str(entry[key]).casefold(), entry[key])
        if value is None:
            continue
        if value not in (0, 1):  # True and False among them
            raise UnreadableError(f"{key} of message {number} must be 0 or 1, got {str(value)[:40]}")
        return bool(value)
    return True


def _first(entry: Mapping[str, Any], keys: tuple[str, str]) -> Any:
    first, second = keys
    value = entry.get(first)
    return entry.get(second) if value is None else value
