"""Whose template and tokenizer read the data before a run: the model's own, or what stands in for them, and said so."""

import functools
from dataclasses import dataclass
from pathlib import Path

from trainer.data.template.families import GENERAL, family
from trainer.data.tokenizer import DataTokenizer, FamilyTokenizer, FolderTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A tokenizer with its template."""

    tokenizer: DataTokenizer
    template: str
    """Whose template it is, in words."""
    counter: str
    """Whose tokens are counted, in words; empty where none are."""
    is_own: bool
    """Whether both are the model's own."""
    task_types: tuple[str, ...] = ()
    """The tasks that the model can be trained for; empty for any decoder."""


@functools.lru_cache(maxsize=4)
def reader(
    own: Path | None,
    *,
    model_type: str,
    name: str,
    counted_by: Path | None,
    task_types: tuple[str, ...] = (),
) -> Reader:
    """Return what reads data for a model.

    Args:
        own: The folder of its tokenizer; None where it is not on this machine.
        model_type: What transformers calls its architecture.
        name: Its name, which tells generations and sizes of a family apart.
        counted_by: The folder of a tokenizer that counts tokens where there is no own one; None counts none.
        task_types: The tasks that it can be trained for; empty for any decoder.

    Raises:
        SpecError: If a folder has no readable tokenizer.
    """
    if own is not None:
        tokenizer = FolderTokenizer(own)
        template = "the model's own chat template" if tokenizer.chat_template else "plain headings: it has no template"
        return Reader(
            tokenizer=tokenizer,
            template=template,
            counter="the model's own tokenizer",
            is_own=True,
            task_types=task_types,
        )
    known = family(model_type, name)
    stand_in = known.template if known else GENERAL
    counter = f"the tokenizer of {counted_by.name}" if counted_by else ""
    return Reader(
        tokenizer=FamilyTokenizer(stand_in, counted_by),
        template=_words(stand_in, model_type, name, is_known=known is not None),
        counter=counter,
        is_own=False,
        task_types=task_types,
    )


_TUNED = ("-Instruct", "-it")
"""How the names end of models that their makers trained to answer."""


def _words(stand_in: str, model_type: str, name: str, *, is_known: bool) -> str:
    if not stand_in:
        named = (f"{name.removesuffix('-pt')}{ending}" for ending in _TUNED)  # Google's Gemma 3 without -it is -pt
        tuned = next((one for one in named if (found := family(model_type, one)) and found.template), "")
        more = f", {tuned.rpartition('/')[2]} has one" if tuned else ""
        return f"plain headings: this model has no chat template{more}"
    template = f"the template of the family {stand_in}"
    return template if is_known else f"{template}, as that of {model_type} is not known here"
