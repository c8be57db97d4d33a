"""Answers one request of the tracer process."""

import json
from collections.abc import Callable
from typing import Any

import torch

from estimator.tape.layers import LAYERS_OF
from estimator.tape.recipe import Recipe
from estimator.tracer.trace import trace
from specs import FinetunePlan, LorafitError
from specs.targets import Layers
from trainer.model.build import base_model
from trainer.model.layers import layers
from trainer.model.misfit import misfit
from trainer.model.packing import META

torch.set_num_threads(1)


def _answered(text: str, progress: Callable[[str], None]) -> str:
    asked = json.loads(text)
    if LAYERS_OF in asked:
        progress("building the model without weights")
        return json.dumps(_layers_of(asked[LAYERS_OF]).to_dict())
    return trace(Recipe.from_json(text), progress).to_json()


def _layers_of(config: dict[str, Any]) -> Layers:
    """Return the layers of a configuration that is built without weights, however a checkpoint stores them.

    Raises:
        LorafitError: If transformers does not build it.
    """
    whole = {name: value for name, value in config.items() if name != "quantization_config"}
    try:
        return layers(base_model(_PLAIN, whole, device=META))
    except LorafitError:
        raise
    except Exception as error:
        raise misfit(error, config) from error


_PLAIN = FinetunePlan.for_method("full", "built")


def answer(request: str, progress: Callable[[str], None]) -> dict[str, Any]:
    """Return what was asked for as JSON text, or the message that says why there is none; both name the question."""
    key, _, text = request.partition(" ")
    try:
        return {"recipe": key, "tape": _answered(text, progress)}
    except LorafitError as error:
        return {"recipe": key, "error": str(error), "kind": type(error).__name__, "subject": error.subject}
