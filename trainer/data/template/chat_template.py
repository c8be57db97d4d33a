"""Chat templates: rendered as transformers renders them, with the marks of what the assistant says kept.

Imports neither transformers nor TRL: their templates are texts, and rendering one takes Jinja alone.
"""

import functools
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from specs import SpecError
from trainer.data.forms.messages import RESERVED
from trainer.data.row import UnreadableError

_BEGIN, _END, PLACEHOLDER = tuple(RESERVED)
"""What stands before and behind a generated part, and for an answer whose place is looked for."""

_TRAINING = "_training"


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A chat template with the special tokens it names."""

    source: str
    special: Mapping[str, Any] = field(default_factory=dict)
    """``bos_token``, ``eos_token`` and the others, as templates call them."""

    @property
    def marks_answers(self) -> bool:
        """Whether it says itself what the assistant generates."""
        return "endgeneration" in self.source

    def rendered(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        ask: bool = False,
    ) -> tuple[str, tuple[tuple[int, int], ...]]:
        """Return a conversation as the model reads it, and the spans of characters that are marked as generated.

        Args:
            messages: Role, content and what else a template reads of each.
            tools: JSON schemas of functions.
            ask: Whether the heading of the next answer follows.

        Raises:
            UnreadableError: If the template refuses these messages.
        """
        values = {
            **self.special,
            "messages": [_aliased(message) for message in messages],
            "tools": list(tools) or None,
            "documents": None,
            "add_generation_prompt": ask,
        }
        try:
            return _without_marks(_compiled(self.source).render(**values))
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UnreadableError(f"the model's chat template refuses it: {reason[:100]}") from error


def for_training(template: ChatTemplate) -> ChatTemplate:
    """Return the variant of a template that renders every answer alike and marks it; itself where none is known.

    TRL ships variants of the templates it knows, beside the originals: ``trl/chat_templates/README.md``.
    """
    if template.marks_answers:
        return template
    known = _variants().get(template.source.strip())
    return ChatTemplate(known, template.special) if known else template


def of_family(name: str) -> ChatTemplate | None:
    """Return one of the templates that TRL ships, by its file's name without the ending."""
    path = _folder() / f"{name}.jinja"
    return ChatTemplate(path.read_text(encoding="utf-8")) if path.is_file() else None


def names() -> tuple[str, ...]:
    """Return the names of all templates that TRL ships."""
    return tuple(sorted(path.stem for path in _folder().glob("*.jinja")))


def chosen(value: Any) -> str | None:
    """Return the template of a tokenizer's configuration, which may be a list of named ones or a mapping of them."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, Mapping)}
    if isinstance(value, Mapping):
        value = value.get("default")
    return value if isinstance(value, str) and value.strip() else None


def _folder() -> Path:
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.submodule_search_locations is None:
        raise SpecError("trl", "is not installed", None, "Run make setup")
    return Path(next(iter(spec.submodule_search_locations))) / "chat_templates"


@functools.cache
def _variants() -> Mapping[str, str]:
    """Return the training variants by the text of the template that each stands for."""
    found = {}
    for path in _folder().glob(f"*{_TRAINING}.jinja"):
        original = path.with_name(f"{path.stem.removesuffix(_TRAINING)}.jinja")
        if original.is_file():
            found[original.read_text(encoding="utf-8").strip()] = path.read_text(encoding="utf-8")
    return found


def _aliased(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a message with its reasoning under the second name that templates read, gpt-oss' among them."""
    thought = message.get("reasoning_content")
    return message if thought is None else {"thinking": thought, **message}


def _without_marks(text: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    if _BEGIN not in text:
        return text, ()
    parts, spans, length = [], [], 0
    for index, piece in enumerate(text.split(_BEGIN)):
        inside, mark, outside = piece.partition(_END) if index else ("", "", piece)
        if index and mark:
            spans.append((length, length + len(inside)))
        parts += [inside, outside]
        length += len(inside) + len(outside)
    return "".join(parts), tuple(span for span in spans if span[0] < span[1])


class _Generation(Extension):
    """The block ``{% generation %}``, whose content is marked."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """Put a mark before the block's content and one after."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        return f"{_BEGIN}{caller()}{_END}"


class _Namespace(jinja2.utils.Namespace):
    """A namespace whose attributes cannot reach Python's internals."""

    def __setitem__(self, name: str, value: Any) -> None:
        """Set an attribute.

        Raises:
            SecurityError: If its name begins with an underscore.
        """
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError("names with a leading underscore are not allowed")
        super().__setitem__(name, value)


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    """Compile a template in the environment that transformers 5.23 gives it; utils/chat_template_utils.py.

    Templates come with models from strangers: they may compute texts and nothing else.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _json_text
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now, "dict": dict, "namespace": _Namespace}
    return environment.from_string(source)


def _json_text(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - transformers' signature
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
