"""Traces one recipe: records the step at two sizes, at a third if needed, and fits a tape to the recordings."""

import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from estimator.tape.recipe import LIBRARIES, Recipe, added_tokens, differs_by_layer, sliding_window
from estimator.tape.tape import Tape
from estimator.tracer import fit
from estimator.tracer.fit import Probe
from estimator.tracer.model import TracedModel, traced_model
from estimator.tracer.recorder import Recording
from estimator.tracer.step import Batch, recorded_step
from specs import LorafitError, TraceError

Progress = Callable[[str], None]

# Primes, so that no two monomials of batch, length and rank grow by the same ratio between two probes.
_BATCHES, _LENGTHS, _RANKS = (3, 5, 7), (1031, 1297, 1543), (7, 11, 13)
_SHORT_LENGTHS = (61, 89, 107)


def trace(recipe: Recipe, progress: Progress) -> Tape:
    """Return the tape of a recipe.

    Raises:
        LorafitError: If the model cannot be built or its step cannot be traced.
    """
    started = time.monotonic()
    facts: dict[str, Any] = {
        "config": _config(recipe),
        "conditions": dataclasses.asdict(recipe.conditions),
        "versions": {name: version(name) for name in LIBRARIES},
        "warnings": [],
    }
    seen: list[tuple[Probe, Recording, TracedModel]] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for probe in probes(recipe):
                progress(f"tracing one step, {probe.batch} x {probe.length} tokens")
                seen.append((probe, *recorded(recipe, probe)))
                tape = _fitted(seen, facts)
                if tape is not None:
                    facts["seconds"] = round(time.monotonic() - started, 2)
                    return tape
    except LorafitError:
        raise
    except Exception as error:
        way_out = "Choose a model that transformers trains as a causal language model"
        raise TraceError(_name(recipe), "training step cannot be traced", str(error), way_out) from error
    raise TraceError(_name(recipe), "sizes must be polynomials of batch and length")


def probes(recipe: Recipe) -> Iterator[Probe]:
    """Yield the sizes to record at, all in the recipe's regime."""
    window = sliding_window(_config(recipe))
    for batch, length, short, rank in zip(_BATCHES, _LENGTHS, _SHORT_LENGTHS, _RANKS, strict=True):
        tokens = length
        if window is not None:
            tokens = window + length if recipe.beyond_window else length if window > max(_LENGTHS) else short
        yield Probe(
            batch=1 if recipe.single else batch,
            length=tokens + added_tokens(recipe.plan),
            added=added_tokens(recipe.plan),
            rank=rank,
        )


def recorded(recipe: Recipe, probe: Probe, *, every_layer: bool = False) -> tuple[Recording, TracedModel]:
    """Return the recording of one step of a recipe's model at one size, with a few layers or all of them."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    plan = dataclasses.replace(recipe.plan, r=probe.rank)
    every_layer = every_layer or differs_by_layer(plan)
    model = traced_model(plan, _config(recipe), recipe.conditions, mode, every_layer=every_layer)
    batch = Batch(size=probe.batch, length=probe.length - probe.added, masked=recipe.conditions.padding == "mask")
    recording = recorded_step(model, batch, plan=plan, conditions=recipe.conditions, mode=mode)
    return recording, model


def _fitted(seen: list[tuple[Probe, Recording, TracedModel]], facts: dict[str, Any]) -> Tape | None:
    """Return the tape of what was recorded so far, or None if another size is needed to fit it."""
    if len(seen) < 2:
        return None
    points, recordings, models = zip(*seen, strict=True)
    facts["unquantized_params"] = models[0].unquantized_params
    try:
        return fit.tape(points, recordings, models, facts)
    except TraceError:
        if len(seen) < len(_BATCHES):
            return None
        raise


def _config(recipe: Recipe) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(recipe.config_json)
    # A padding token costs no memory, and the architecture's default may lie outside a small vocabulary.
    return {**config, "pad_token_id": None}


def _name(recipe: Recipe) -> str:
    return str(_config(recipe).get("model_type", "model"))
