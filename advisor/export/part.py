"""What one task brings to its script: a form that each task fills in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from advisor.export.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one task brings to its script."""

    text: Callable[[Job], str]
    """The functions ``learned``, which gives the rows, and ``values``, which gives what the trainer needs for them."""
    portable: Sequence[Callable[..., Any]] = ()
    """The functions that it shares with a run."""
    packages: Sequence[str] = ()
    modules: Sequence[str] = ()
    imports: Sequence[str] = ()
    portable_imports: Sequence[str] = ()
    """What its shared functions name besides types."""
    strata: str = "[None] * len(data)"
    """The expression for what rows are held out by, in equal shares."""
    trainer: str = "Trainer"
    arguments: str = "TrainingArguments"
    transformers: Sequence[str] = ()
    """Further names of transformers."""
    label_names: Sequence[str] = ("labels",)
    values: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the trainer that only this task has."""
    made: str = ""
    """The expression for what is trained, of the ``model`` of transformers; empty where that itself is."""
    learned: str = "learned(args.data, tokenizer)"
    """The expression for the rows."""
    of_transformers: bool = True
    """Whether trainer and arguments are transformers' own."""
