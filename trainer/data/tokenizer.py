"""A model folder's tokenizer without the training stack: loads in milliseconds, for previews and lengths."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from tokenizers import AddedToken, Tokenizer

from specs import SpecError
from trainer.data.template import chat_template

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class FolderTokenizer:
    """Speaks as much of transformers' tokenizer interface as rendering needs."""

    def __init__(self, folder: Path) -> None:
        """Read ``tokenizer.json``, the special tokens and the chat template of a model's folder.

        Raises:
            SpecError: If the folder has no readable tokenizer.
        """
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:
            raise SpecError(
                str(folder), "must have a readable tokenizer.json", None, "Fetch the model again"
            ) from error
        settings = _json(folder / "tokenizer_config.json")
        named = {**_json(folder / "special_tokens_map.json"), **settings}
        self.special_tokens_map = {name: text for name in _SPECIAL if (text := _text(named.get(name))) is not None}
        self.chat_template = _template(folder, settings)

    @property
    def bos_token(self) -> str | None:
        """The token that begins a text."""
        return self.special_tokens_map.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        """The token that ends a text."""
        return self.special_tokens_map.get("eos_token")

    @property
    def bos_token_id(self) -> int | None:
        """The number of ``bos_token``."""
        number: int | None = self._tokenizer.token_to_id(self.bos_token) if self.bos_token else None
        return number

    def token(self, number: int) -> str | None:
        """Return the token with a number, or None if there is none."""
        found: str | None = self._tokenizer.id_to_token(number)
        return found

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        """The tokens besides the vocabulary, special ones among them, by number."""
        found: Mapping[int, AddedToken] = self._tokenizer.get_added_tokens_decoder()
        return found

    def __call__(self, text: str, *, add_special_tokens: bool = True, **_: object) -> dict[str, Any]:
        """Return ``input_ids`` and ``offset_mapping`` of a text."""
        encoded = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return {"input_ids": encoded.ids, "offset_mapping": encoded.offsets}

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without special tokens around it; on all cores."""
        return [len(encoded) for encoded in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    @property
    def added(self) -> int:
        """How many special tokens are put around a text of its own."""
        return int(self._tokenizer.num_special_tokens_to_add(is_pair=False))

    def keep_whole(self, words: Iterable[str]) -> None:
        """Take some words as one token each, as the tokenizer of the template that they come from does."""
        self._tokenizer.add_special_tokens([AddedToken(word, special=True) for word in sorted(words)])


_TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|eot|>",
    "<|user|>",
    "<|observation|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
)
"""Special tokens that end a turn in the templates that TRL ships."""


_CONTROL = re.compile(r"<\|[^|<>]{1,40}\|>|<｜[^｜<>]{1,40}｜>|<(?:start|end)_of_turn>|</?think>")
"""How templates write the tokens that stand between what is said."""


class FamilyTokenizer:
    """Stands in for the tokenizer of a model that is not here: a template of its family, and no tokens of its own."""

    bos_token, bos_token_id = None, None
    added_tokens_decoder: Mapping[int, AddedToken] = MappingProxyType(
        {number: AddedToken(word, special=True) for number, word in enumerate(_TURN_ENDS)}
    )

    def __init__(self, family: str, counted_by: Path | None = None) -> None:
        """Take a template that TRL ships.

        Args:
            family: Its file's name without the ending; empty for a model that has no chat template.
            counted_by: The folder of another model's tokenizer, which counts in place of the right one.

        Raises:
            SpecError: If TRL ships none of that name.
        """
        template = chat_template.of_family(family) if family else None
        if family and template is None:
            known = ", ".join(chat_template.names())[:100]
            raise SpecError(family, "is not a family of chat templates", None, f"Known are {known} ...")
        self.chat_template = template.source if template else None
        self.eos_token = "<|im_end|>" if template else ""
        self.special_tokens_map = {"eos_token": self.eos_token}
        self._counter = FolderTokenizer(counted_by) if counted_by else None
        if self._counter and template:
            self._counter.keep_whole(set(_CONTROL.findall(template.source)))

    def __call__(self, text: str, **_: object) -> dict[str, Any]:
        """Return the tokens of the tokenizer that counts; none without one."""
        if self._counter is None:
            return {"input_ids": [], "offset_mapping": []}
        return self._counter(text, add_special_tokens=False)

    @property
    def added(self) -> int:
        """How many special tokens the tokenizer that counts puts around a text of its own."""
        return self._counter.added if self._counter else 0

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens the tokenizer that counts makes of each text; 0 without one."""
        return self._counter.lengths(texts) if self._counter else [0] * len(texts)


DataTokenizer: TypeAlias = FolderTokenizer | FamilyTokenizer
"""What reads data before a run."""


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
    return chat_template.chosen(settings.get("chat_template"))
