"""Times each kind of work on this machine: ``python -m trainer.worker.calibrating DEVICE SECONDS``.

Answers with one line of JSON. Each figure is the best of many short repetitions. On a CPU they are timed by the
processor time of the main thread, with the other threads waiting asleep: what else the machine does counts little. The
same code runs on a CPU and on a GPU.
"""

import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from statistics import median
from typing import Any

import psutil

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from specs import FinetunePlan
from specs.curves import MEASURED_METHODS, MEASURED_MODEL, MEASURED_RANK, MEASURED_STEPS
from trainer.model.build import prepared_base, with_adapter
from trainer.model.packing import packed
from trainer.model.stored import bnb_config

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
"""What the figures depend on besides the device."""

_TOKENS = (1, 16, 64, 160, 512, 2048)
_WIDTHS: Mapping[str, tuple[int, int]] = {"cpu": (576, 1536), "cuda": (4096, 4096)}
"""Input and output of the matrix products: those of the demo model on a CPU, those of an 8B model on a GPU."""
_WEIGHTS = 32
"""Weights that are taken in turn: more than the caches hold."""
_ELEMENTS: Mapping[str, int] = {"cpu": 160 * 1536, "cuda": 2048 * 14336}
_DTYPES: Mapping[str, tuple[str, ...]] = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "bfloat16", "float16")}
_FEWEST, _MOST = 3, 400
"""Repetitions of one measurement."""
_PARTS = 40
"""Measurements that share the time, about."""


def main(arguments: list[str]) -> None:
    """Answer on standard output."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not mix with the answer
    started = time.time() - psutil.Process().create_time()
    found = measured(arguments[0], seconds=float(arguments[1]) - started)
    answers.write(json.dumps({**found, "seconds_to_start": started, "libraries": libraries()}) + "\n")
    answers.flush()


def libraries() -> dict[str, str]:
    """Return the versions that the figures depend on."""
    return {name: version(name) for name in LIBRARIES}


def measured(device: str, *, seconds: float) -> dict[str, Any]:
    """Return the seconds of each kind of work on a device, with the size of that work."""
    clock = _Clock(device, max(seconds, 0.5) / _PARTS)
    with torch.random.fork_rng():
        return {
            "matmul": {dtype: _matmul(clock, dtype) for dtype in _DTYPES[clock.kind]},
            "moved": _moved(clock),
            "adapter": _adapter(clock),
            "attention": _attention(clock),
            "expanded": _expanded(clock),
            "call_seconds": _call(clock),
            "steps": _steps(clock),
        }


class _Clock:
    """Times work on one device, each for the same share of the time."""

    def __init__(self, device: str, share: float) -> None:
        self.device = device
        self.kind = device.partition(":")[0]
        self.share = share
        self.deadline = time.perf_counter() + _PARTS * share

    def best(self, work: Callable[[], Any], *, shares: float = 1.0, typical: bool = False) -> float:
        """Return the seconds of the quickest repetition, or of the median one."""
        work()
        found: list[float] = []
        until = time.perf_counter() + shares * self.share
        fewest = _FEWEST if time.perf_counter() < self.deadline else 1
        while len(found) < fewest or (time.perf_counter() < until and len(found) < _MOST):
            began = self._now()
            work()
            found.append(self._now() - began)
        return median(found) if typical else min(found)

    def random(self, *shape: int, dtype: str = "float32") -> torch.Tensor:
        """Return random numbers on the device."""
        return torch.randn(*shape, device=self.device, dtype=getattr(torch, dtype))

    def _now(self) -> float:
        if self.kind == "cpu":
            return time.thread_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def _matmul(clock: _Clock, dtype: str) -> list[tuple[int, float]]:
    """Return tokens and FLOP/s of products with weights that no cache holds, as in a model."""
    inner, outer = _WIDTHS[clock.kind]
    weights = itertools.cycle([clock.random(outer, inner, dtype=dtype) for _ in range(_WEIGHTS)])
    points: list[tuple[int, float]] = []
    for tokens in _TOKENS:
        x = clock.random(tokens, inner, dtype=dtype)
        seconds = clock.best(functools.partial(_product, x, weights), typical=True)
        points.append((tokens, 2 * tokens * inner * outer / seconds))
    return points


def _product(x: torch.Tensor, weights: Iterator[torch.Tensor]) -> torch.Tensor:
    return functional.linear(x, next(weights))


def _moved(clock: _Clock) -> float:
    """Return the bytes a second of a product of two tensors: two are read and one is written."""
    count = _ELEMENTS[clock.kind]
    x, y = clock.random(count), clock.random(count)
    return 3 * 4 * count / clock.best(lambda: x * y)


def _adapter(clock: _Clock) -> float:
    """Return the bytes a second of the two narrow products of one adapter, in and out once each."""
    inner, outer = _WIDTHS[clock.kind]
    tokens = 160
    x, down, up = clock.random(tokens, inner), clock.random(MEASURED_RANK, inner), clock.random(outer, MEASURED_RANK)
    seconds = clock.best(lambda: functional.linear(functional.linear(x, down), up))
    return 2 * 4 * tokens * (inner + outer) / seconds


def _attention(clock: _Clock) -> float:
    """Return the FLOP/s of attention forward, counted without its mask."""
    heads, length, width = 9, 256, 64
    dtype = "float32" if clock.kind == "cpu" else "float16"
    q, k, v = (clock.random(1, heads, length, width, dtype=dtype) for _ in range(3))
    seconds = clock.best(lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=True))
    return 4 * heads * length * length * width / seconds


def _expanded(clock: _Clock) -> float:
    """Return the bytes a second that are read and written while a 4-bit weight is expanded."""
    inner, outer = _WIDTHS[clock.kind]
    dtype = "float32" if clock.kind == "cpu" else "float16"
    packed, state = quantize_4bit(clock.random(outer, inner, dtype=dtype), quant_type="nf4")
    itemsize = 4 if dtype == "float32" else 2
    moved = (0.5 + 4 / 64 + itemsize) * inner * outer
    return moved / clock.best(lambda: dequantize_4bit(packed, state))


def _call(clock: _Clock) -> float:
    """Return the seconds that one call takes with almost nothing to compute, its gradient's node included."""
    calls = 50
    x = clock.random(8).requires_grad_()

    def many() -> None:
        y = x
        for _ in range(calls):
            y = y * 1.5

    return clock.best(many) / calls


def _steps(clock: _Clock) -> dict[str, list[float]]:
    """Return the seconds of forward and backward passes of a small whole model, in the order of ``MEASURED_STEPS``."""
    found: dict[str, list[float]] = {}
    for method in MEASURED_METHODS:
        plan = FinetunePlan.for_method(method, "calibration", r=MEASURED_RANK, dtype="float32")
        base = prepared_base(_base(plan), plan)
        model = with_adapter(base, plan).train().to(clock.device)
        found[method] = [clock.best(_step(model, clock.device, *size), shares=2) for size in MEASURED_STEPS]
    return found


def _base(plan: FinetunePlan) -> LlamaForCausalLM:
    """Return the small model, its layers in 4 bit if the plan says so."""
    model = LlamaForCausalLM(LlamaConfig(**MEASURED_MODEL))
    quantization = bnb_config(plan, model.config)
    layers = model.model.layers
    for path, linear in list(layers.named_modules()) if quantization is not None else ():
        if isinstance(linear, nn.Linear):
            found = Linear4bit(
                linear.in_features, linear.out_features, bias=False, compute_dtype=torch.float32, device="meta"
            )
            found.weight = packed(linear.weight.data, quantization, found)
            layers.set_submodule(path, found)
    return model


def _step(model: nn.Module, device: str, batch: int, length: int) -> Callable[[], None]:
    ids = torch.randint(MEASURED_MODEL["vocab_size"], (batch, length), device=device)

    def step() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    return step


if __name__ == "__main__":
    main(sys.argv[1:])
