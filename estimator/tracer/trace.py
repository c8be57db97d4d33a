"""Traces one recipe: records the step at two sizes, at a third if needed, and fits a tape to the recordings."""

import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from estimator.tape.chunks import PER_TOKEN, chunk_tokens
from estimator.tape.recipe import LIBRARIES, Recipe, added_tokens, differs_by_layer, has_own_rank, sliding_window
from estimator.tape.tape import Tape
from estimator.tracer import fit
from estimator.tracer.fit import Probe
from estimator.tracer.model import TracedModel, traced_model
from estimator.tracer.recorder import Recording
from estimator.tracer.step import Batch, recorded_step
from estimator.tracer.untraceable import untraceable
from specs import LorafitError, PlanError, TraceError
from specs.model import text_tower

Progress = Callable[[str], None]

# Primes, so that no two monomials of batch, length and rank grow by the same ratio between two probes.
_BATCHES, _LENGTHS, _RANKS = (3, 5, 7), (1031, 1297, 1543), (7, 11, 13)
_SHORT_LENGTHS = ((61, 89, 107), (29, 37, 43), (17, 19, 23))
"""For models with fewer positions: the longest that fit."""
_KEPT_POSITIONS = 2
"""Positions that RoBERTa and its like do not give to tokens: those up to and with the padding's."""
_PASSES_DIVISOR = 5
"""Leaves 12, 17 and 21 chunks of the short lengths."""
# What configurations call the longest sequence that they have a position for.
_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length")


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
        "chunk": chunk_tokens(_config(recipe)),
    }
    tape = _of_a_few_layers(recipe, facts, progress) or _of_every_layer(recipe, facts, progress)
    facts["seconds"] = round(time.monotonic() - started, 2)
    return tape


def _of_a_few_layers(recipe: Recipe, facts: dict[str, Any], progress: Progress) -> Tape | None:
    """Return the tape of a step in which a few layers stand for all; None if they cannot."""
    # Layers of an encoder and a decoder are of two kinds, in two lists.
    if differs_by_layer(recipe.plan) or recipe.plan.task_type == "SEQ_2_SEQ_LM":
        return None
    try:
        return _traced(recipe, facts, progress, every_layer=False)
    except PlanError:
        raise
    except Exception:  # noqa: BLE001 - whatever a cut model fails with, the whole one decides what is said
        return None


def _of_every_layer(recipe: Recipe, facts: dict[str, Any], progress: Progress) -> Tape:
    """Return the tape of a step in which every layer is traced.

    Raises:
        LorafitError: If the model cannot be built or its step cannot be traced.
    """
    try:
        return _traced(recipe, facts, progress, every_layer=True)
    except LorafitError:
        raise
    except Exception as error:
        raise untraceable(error, _config(recipe)) from error


def _traced(recipe: Recipe, facts: dict[str, Any], progress: Progress, *, every_layer: bool) -> Tape:
    """Return the tape of steps at two sizes, or at three if two are not enough."""
    seen: list[tuple[Probe, Recording, TracedModel]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for probe in probes(recipe):
            progress(f"tracing one step, {probe.batch} x {probe.length} tokens")
            seen.append((probe, *recorded(recipe, probe, every_layer=every_layer)))
            tape = _fitted(seen, facts)
            if tape is not None:
                return tape
    raise TraceError(_name(recipe), "sizes must be polynomials of batch and length")


def probes(recipe: Recipe) -> Iterator[Probe]:
    """Yield the sizes to record at, all in the recipe's regime."""
    config = text_tower(_config(recipe))
    window = sliding_window(config)
    positions = [config[name] for name in _POSITIONS if isinstance(config.get(name), int)]
    limit = min(positions, default=None)
    is_short = limit is not None and limit < max(_LENGTHS)
    chunk = chunk_tokens(config)
    shorter = _short_lengths(recipe, limit if is_short else None)
    for batch, length, short, rank in zip(_BATCHES, _LENGTHS, shorter, _RANKS, strict=True):
        tokens = short if is_short else length
        if chunk is not None:
            tokens = _recurrent_length(chunk, short, aligned=recipe.aligned)
        elif window is not None:
            tokens = window + length if recipe.beyond_window else length if window > max(_LENGTHS) else short
        yield Probe(
            batch=1 if recipe.single else batch,
            length=tokens + added_tokens(recipe.plan),
            added=added_tokens(recipe.plan),
            rank=recipe.plan.r if has_own_rank(recipe.plan) else rank,
            chunk=chunk,
        )


def _short_lengths(recipe: Recipe, limit: int | None) -> tuple[int, ...]:
    """Return the short lengths for a model with so many positions, or without a limit.

    Raises:
        TraceError: If none fit.
    """
    left = None if limit is None else limit - _KEPT_POSITIONS - added_tokens(recipe.plan)
    found = next((choice for choice in _SHORT_LENGTHS if left is None or max(choice) <= left), None)
    if found is None:
        rule = (
            f"has positions for at most {limit:,} tokens, and a step is traced with {max(_SHORT_LENGTHS[-1])} or more"
        )
        raise TraceError(_name(recipe), rule, None, "Choose a model that was made for longer texts")
    return found


def _recurrent_length(chunk: int, short: int, *, aligned: bool) -> int:
    """Return a length of enough chunks to tell their loop: whole ones, or with a rest."""
    passes = short // _PASSES_DIVISOR
    rest = 0 if aligned else short % chunk
    return chunk * passes + rest if chunk > PER_TOKEN else short // 2


def recorded(recipe: Recipe, probe: Probe, *, every_layer: bool = False) -> tuple[Recording, TracedModel]:
    """Return the recording of one step of a recipe's model at one size, with a few layers or all of them."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    plan = dataclasses.replace(recipe.plan, r=probe.rank)
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
    # Which token pads or begins costs no memory, and the architecture's default may lie outside a small vocabulary.
    for part in {id(part): part for part in (config, text_tower(config))}.values():
        part["pad_token_id"] = 0
    if recipe.plan.task_type == "SEQ_2_SEQ_LM":
        config["decoder_start_token_id"] = 0
    return config


def _name(recipe: Recipe) -> str:
    return str(_config(recipe).get("model_type", "model"))
