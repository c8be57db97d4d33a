"""Measures one plan: trains a model of a real shape with made-up weights for a few steps and reports its memory peaks.

``python -m trainer.worker.measuring``. Reads the plan, the configuration and the device as one JSON object on standard
input and answers with one line of JSON. Then it holds its memory until standard input closes, so that the caller can
look at the GPU.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast, TrainerCallback, set_seed

from specs import METHODS, FinetunePlan, LorafitError, RunError
from trainer.data.source import DataSource
from trainer.model.blank import write_blank_model
from trainer.model.build import build
from trainer.runs.contract import Place
from trainer.runs.session import Session
from trainer.runs.store import Store
from trainer.worker import memory
from trainer.worker.loop.trainers import trainer_of
from trainer.worker.splitting import Rows

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")

_SMALL = 0.02
"""Standard deviation of the random weights: the usual ``initializer_range`` in transformers' configurations."""


def main() -> None:
    """Answer the request on standard input."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # What libraries print must not mix with the answer.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asked = json.loads(sys.stdin.readline())
    try:
        answer = measured(FinetunePlan.from_dict(asked["plan"]), asked["config"], device=asked["device"])
    except LorafitError as error:
        answer = {"error": str(error)}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    sys.stdin.read()


def measured(plan: FinetunePlan, config: Mapping[str, Any], *, device: str) -> dict[str, Any]:
    """Return the peaks of a few training steps of a plan, by phase and in total, even if memory runs out."""
    peaks = Peaks(device)
    with tempfile.TemporaryDirectory(prefix="lorafit-measuring-") as folder:
        try:
            _train(plan, config, Path(folder), peaks)
        except (torch.OutOfMemoryError, MemoryError) as error:
            peaks.ran_out = str(error).partition("\n")[0] or type(error).__name__
        peaks.end(peaks.phase)
    versions = " ".join(f"{name}={version(name)}" for name in LIBRARIES)
    return {**peaks.to_dict(), "versions": versions, "allocator": os.environ.get("PYTORCH_ALLOC_CONF", "")}


class Peaks:
    """The memory peaks of each phase of a step, and of the whole process."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.phase = "load"
        """The current phase."""
        self.by_phase: dict[str, int] = {}
        self.reserved_bytes = 0
        self.ran_out = ""
        """What PyTorch said when memory ran out; empty if it did not."""

    @property
    def on_card(self) -> bool:
        """Whether the device is a GPU, whose memory PyTorch counts."""
        return self.device.startswith("cuda")

    def end(self, phase: str) -> None:
        """Record the peak since the end of the previous phase."""
        if self.on_card:
            peak = int(torch.cuda.max_memory_allocated())
            self.reserved_bytes = max(self.reserved_bytes, int(torch.cuda.max_memory_reserved()))
            torch.cuda.reset_peak_memory_stats()
        else:
            peak = memory.used_bytes(self.device)
        self.by_phase[phase] = max(peak, self.by_phase.get(phase, 0))

    def to_dict(self) -> dict[str, Any]:
        """Return the figures under their names in the measured rows."""
        values: dict[str, Any] = {"phases": self.by_phase, "ran_out": self.ran_out}
        if not self.on_card:
            return {**values, "used_bytes": memory.peaks(self.device)["peak_used_bytes"]}
        values["max_memory_allocated_bytes"] = max(self.by_phase.values())
        values["max_memory_reserved_bytes"] = self.reserved_bytes
        # What the allocator has returned to the GPU since its peak.
        values["returned_bytes"] = self.reserved_bytes - int(torch.cuda.memory_reserved())
        return values


class _Phases(TrainerCallback):
    """Records the ends of the backward pass and of the optimizer step in transformers' training loop."""

    def __init__(self, peaks: Peaks) -> None:
        self._peaks = peaks

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """End the backward pass."""
        self._peaks.end("backward")
        self._peaks.phase = "optimizer"

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """End the optimizer step; the next forward pass begins."""
        self._peaks.end("optimizer")
        self._peaks.phase = "forward"


def _train(plan: FinetunePlan, config: Mapping[str, Any], folder: Path, peaks: Peaks) -> None:
    """Load a model of the configuration's shape and train it as a run would."""
    set_seed(plan.seed)
    model_folder = folder / "model"
    write_blank_model(config, model_folder, dtype=plan.dtype)
    model = build(plan, str(model_folder), device=peaks.device)
    _fill(model, keep_trained=METHODS[plan.method].trains_adapter)
    store = Store(folder / "runs")
    store.create(plan, DataSource(path=""), place=Place(device=peaks.device, model_path=str(model_folder)))
    run = store.claim_next(peaks.device)
    if run is None:
        raise RunError(peaks.device, "must be free in a store of its own")
    store.run_folder(run.id).mkdir(parents=True, exist_ok=True)
    session = Session(run, store, Event())
    words = int(model.config.get_text_config().vocab_size)
    trainer = trainer_of(session, model, _tokenizer(), Rows(learned=_rows(plan, words)))
    trainer.args.save_strategy = "no"
    trainer.add_callback(_Phases(peaks))
    trainer.accelerator.backward = _after_forward(trainer.accelerator.backward, peaks)
    peaks.end("load")
    peaks.phase = "forward"
    trainer.train()


def _after_forward(backward: Callable[..., None], peaks: Peaks) -> Callable[..., None]:
    """Return a backward pass that first records the end of the forward pass."""

    def noted(*args: Any, **kwargs: Any) -> None:
        peaks.end("forward")
        peaks.phase = "backward"
        backward(*args, **kwargs)

    return noted


@torch.no_grad()
def _fill(model: nn.Module, *, keep_trained: bool) -> None:
    """Set norms to one and other unquantized weights to random values: with only zeros the loss would have no gradient.

    This also makes the router of a mixture spread tokens over its experts. Quantized weights stay zero.
    """
    for name, parameter in model.named_parameters():
        quantized = not parameter.is_floating_point() or hasattr(parameter, "quant_state")
        if quantized or (keep_trained and parameter.requires_grad):
            continue
        if parameter.dim() == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            parameter.normal_(std=_SMALL)


def _rows(plan: FinetunePlan, vocab_size: int) -> Dataset:
    """Return as many full rows of random tokens as the steps need, with every token counted in the loss."""
    count = plan.per_device_train_batch_size * plan.gradient_accumulation_steps * plan.max_steps
    tokens = torch.randint(vocab_size, (count, plan.max_length)).tolist()
    return Dataset.from_dict({"input_ids": tokens, "labels": tokens})


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer, which the trainer needs only for padding."""
    words = WordLevel({"<pad>": 0, "</s>": 1})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))
    tokenizer.pad_token, tokenizer.eos_token = "<pad>", "</s>"
    return tokenizer


if __name__ == "__main__":
    main()
