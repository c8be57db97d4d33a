"""The models of a run: the tuned one, its base, and those of other runs whose adapters fit the same base."""

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import psutil
import torch
from peft import ArrowConfig, PeftModel, create_arrow_model
from transformers import AutoModelForCausalLM

from specs import METHODS, TASK_TYPES, RunError
from trainer.model.adapters import let_dtypes_meet
from trainer.model.build import base_model, placed, with_classes
from trainer.model.expert_adapters import reaching_experts
from trainer.results.chat import BASE, ROUTER, TUNED
from trainer.results.companions import require_companion, routed
from trainer.results.found import adapter_off
from trainer.results.quantizing import WAYS, kept
from trainer.results.quantizing import folder as quantized_folder
from trainer.runs.contract import Run
from trainer.runs.export import result_folder
from trainer.runs.session import Session

_OWN = "default"
"""PEFT's name for the adapter that a model was made with."""


_MOST_AT_ONCE = 3
"""Adapters that the router weighs for one token: the default of ``ArrowConfig``."""


class Voices:
    """The tuned model and the base model, of which only one needs to be in memory, with the adapters of other runs."""

    def __init__(self, session: Session) -> None:
        """Load nothing yet.

        Raises:
            RunError: If the run has saved no result.
        """
        self._session = session
        self._result = result_folder(session.store, session.run)
        self._loaded: tuple[str, Any] | None = None

    @contextmanager
    def model(self, voice: str) -> Iterator[Any]:
        """Yield the model that answers with a voice, not for training.

        Args:
            voice: ``trainer.results.chat.BASE``, ``TUNED``, ``ROUTER``, a way of ``trainer.results.quantizing``, or the
                id of another run of the same base model. The adapter of that run is loaded beside this one's, and
                stays: to switch takes no time.

        Raises:
            RunError: If the adapter of another run cannot be loaded beside this one's.
        """
        other = None if voice in {BASE, TUNED, ROUTER, *WAYS} else self._companion(voice)
        switched = TUNED if self._session.plan.keeps_base and voice not in {ROUTER, *WAYS} else voice
        if self._loaded is None or self._loaded[0] != switched:
            self._loaded = None  # frees the other one's memory first
            self._loaded = (switched, self._load(switched).eval())
        model = self._loaded[1]
        if isinstance(model, PeftModel) and switched == TUNED:
            adapter = self._beside(model, other) if other else _OWN
            if model.active_adapter != adapter:
                model.set_adapter(adapter)
        is_muted = voice == BASE and switched == TUNED
        muted: AbstractContextManager[Any] = adapter_off(model) if is_muted else nullcontext()
        with muted:
            yield model

    def _routed(self) -> list[str]:
        """Return the folders of the adapters among which the router chooses.

        Raises:
            RunError: If there are fewer than two.
        """
        store, run = self._session.store, self._session.run
        among = [str(result_folder(store, one)) for one in routed(store, run)]
        if not among:
            rule = "needs another LoRA adapter of the same base model, r and target_modules as"
            raise RunError("router", f"{rule} run {run.id} has", None, "Ask one adapter at a time")
        return among

    def _companion(self, run_id: str) -> Run:
        """Return another run whose adapter answers in place of this one's.

        Raises:
            RunError: If there is no such run, or it cannot.
        """
        other = self._session.store.run(run_id)
        require_companion(self._session.store, self._session.run, other)
        return other

    def _beside(self, model: PeftModel, other: Run) -> str:
        """Return the name of another run's adapter within the model; one that is not there as it is now is loaded."""
        name = f"{other.id}-{other.attempt}"
        if name not in model.peft_config:
            model.load_adapter(result_folder(self._session.store, other), adapter_name=name, use_safetensors=True)
            model.eval()
        return name

    def _load(self, voice: str) -> Any:
        plan, device = self._session.plan, self._session.device
        if voice in WAYS:
            return self._quantized(voice)
        if TASK_TYPES[plan.task_type].embeds:
            return self._embedder(voice)
        if voice == TUNED and not METHODS[plan.method].trains_adapter:
            return base_model(plan, str(self._result), device=device)
        among = self._routed() if voice == ROUTER else []
        base = base_model(plan, self._session.run.model, device=device)
        if not plan.layer_offloading:
            base = _dequantized_on_cpu(base, device)
        if voice == ROUTER:
            config = ArrowConfig(top_k=min(_MOST_AT_ONCE, len(among)), rng_seed=self._session.plan.seed)
            routed = create_arrow_model(base, among, config, use_safetensors=True)
            return placed(routed, base, plan, device=device)
        if voice != TUNED:
            return placed(base, base, plan, device=device)
        if TASK_TYPES[plan.task_type].has_head:
            base = with_classes(base, self._result)
        with reaching_experts():
            tuned = let_dtypes_meet(PeftModel.from_pretrained(base, self._result, use_safetensors=True))
        return placed(tuned, base, plan, device=device)

    def _quantized(self, way: str) -> Any:
        """Return the run's model as it was quantized.

        Raises:
            RunError: If it was not, or not since it was trained on.
        """
        store, run = self._session.store, self._session.run
        if way not in kept(store, run):
            raise RunError(f"run {run.id}", f"has no model in {WAYS[way].label}", None, "Quantize it first")
        device = self._session.device
        model = AutoModelForCausalLM.from_pretrained(
            quantized_folder(store, run, way),
            dtype=torch.bfloat16,
            device_map=device,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        return _dequantized_on_cpu(model, device)

    def _embedder(self, voice: str) -> Any:
        """Return a model that embeds texts, with the files of the run's result."""
        embedding = importlib.import_module("trainer.model.embedding")  # sentence-transformers takes seconds to import
        plan, device, base = self._session.plan, self._session.device, self._session.run.model
        is_whole = voice == TUNED and not METHODS[plan.method].trains_adapter
        model = base_model(plan, str(self._result) if is_whole else base, device=device)
        if voice == TUNED and not is_whole:
            model = let_dtypes_meet(PeftModel.from_pretrained(model, self._result, use_safetensors=True))
        source = str(self._result) if voice == TUNED else base
        return embedding.sentence_transformer(plan, model, source, device=device)


def _dequantized_on_cpu(base: Any, device: str) -> Any:
    """Return the base model; on a CPU, a 4-bit one dequantized once, if memory allows.

    bitsandbytes 0.50 dequantizes for every token there. Twelve tokens of SmolLM2-135M took 17.4 s of processor time,
    6.8 s when dequantized once, with bit-identical logits; torch 2.13.0, 2026-11-22.
    """
    if device != "cpu" or not getattr(base, "is_loaded_in_4bit", False):
        return base
    # A parameter becomes 32 bits at most.
    return base.dequantize() if 4 * base.num_parameters() < psutil.virtual_memory().available / 2 else base
