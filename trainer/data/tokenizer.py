"""A model folder's tokenizer without the training stack: loads in milliseconds, for previews and lengths."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from specs import DataError, SpecError


class FolderTokenizer:
    """Speaks as much of transformers' tokenizer interface as rendering needs."""

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:
            raise SpecError(
                str(folder), "must have a readable tokenizer.json", None, "Fetch the model again"
            ) from error
        settings = _json(folder / "tokenizer_config.json")
        self.eos_token = _text(settings.get("eos_token"))
        self._bos_token = _text(settings.get("bos_token"))
        self.chat_template = _template(folder, settings)
        # Templates come with models from strangers: they may compute texts and nothing else.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        self._compiled = environment.from_string(self.chat_template) if self.chat_template else None

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        tokenize: bool = False,  # noqa: ARG002 - transformers' signature
        add_generation_prompt: bool = False,
    ) -> str:
        """Return messages as the model reads them.

        Raises:
            DataError: If the model's template refuses these messages.
        """
        if self._compiled is None:
            raise DataError("chat template", "is missing in this model's folder")
        values = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        try:
            return self._compiled.render(**values, bos_token=self._bos_token, eos_token=self.eos_token)
        except TemplateError as error:
            raise DataError("messages", "are refused by the model's chat template", str(error)) from error

    def __call__(self, text: str, **_: object) -> dict[str, Any]:
        """Return ``input_ids`` and ``offset_mapping`` of a text, without special tokens."""
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return {"input_ids": encoded.ids, "offset_mapping": encoded.offsets}


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(token: object) -> str | None:
    """Return a special token, which is text or an object with its content."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    return template if isinstance(template, str) else None
