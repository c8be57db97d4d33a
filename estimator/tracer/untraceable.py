"""Why the training step of a model cannot be traced, in a sentence of our own."""

import re
from collections.abc import Mapping
from typing import Any

from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from specs import LorafitError, TraceError
from trainer.model.misfit import field_at_fault, misfit

_BY_RULE = "It can be trained without an estimate"
_MORE_INPUTS = re.compile(
    r"missing \d+ required positional argument|must specify|exactly 1 of|(be|is|are) specified|required as a model",
    re.IGNORECASE,
)
_ABOUT_A_FIELD = re.compile(r"NoneType|Config' object has no attribute")
_TWO_DTYPES = re.compile(r"expected scalar type|same dtype|must have the same dtype|dtypes? mismatch", re.IGNORECASE)


def untraceable(error: Exception, config: Mapping[str, Any]) -> LorafitError:
    """Return what is to be said of a model whose training step has failed on tensors without values.

    Args:
        error: What transformers, or PyTorch beneath it, has raised.
        config: The model's configuration.
    """
    subject, message = str(config.get("model_type", "model")), str(error)
    if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
        rule = "training step cannot be traced: it goes by computed values, of which a trace has none"
        return TraceError(subject, rule, None, _BY_RULE)
    if _ABOUT_A_FIELD.search(message) and _is_missing(field_at_fault(error, config), config):
        return misfit(error, config)
    if _MORE_INPUTS.search(message):
        rule = "takes no batch of text alone: transformers asks for images or sound with it"
        return TraceError(subject, rule, None, "Choose another model")
    if _TWO_DTYPES.search(message):
        rule = "mixes 16 and 32 bit in transformers' own code, which PyTorch refuses"
        return TraceError(subject, rule, None, "Choose another model")
    rule = "training step cannot be traced on tensors without values"
    return TraceError(subject, rule, None, "A run of a few steps shows whether it trains, and its peak")


def _is_missing(field: str | None, config: Mapping[str, Any]) -> bool:
    return field is not None and config.get(field) is None
