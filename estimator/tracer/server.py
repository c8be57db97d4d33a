"""Answers one request of the tracer process."""

from collections.abc import Callable
from typing import Any

import torch

from estimator.tape.recipe import Recipe
from estimator.tracer.trace import trace
from specs import LorafitError

torch.set_num_threads(1)


def answer(request: str, progress: Callable[[str], None]) -> dict[str, Any]:
    """Return the tape of a recipe as JSON text, or the message that says why there is none; both name the recipe."""
    key, _, text = request.partition(" ")
    try:
        return {"recipe": key, "tape": trace(Recipe.from_json(text), progress).to_json()}
    except LorafitError as error:
        return {"recipe": key, "error": str(error), "kind": type(error).__name__, "subject": error.subject}
