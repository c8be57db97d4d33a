"""Combines adapters into their weighted sum; runs in a separate process.

``python -m trainer.results.combine RUNS_FOLDER TARGET TYPE ID=WEIGHT...``
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoTokenizer

from specs import METHODS, PlanError, RunError
from specs.adapters import INITS
from specs.doors.door import door
from trainer import files
from trainer.model.build import model_config
from trainer.model.packing import META
from trainer.model.towers import auto_class
from trainer.runs.contract import Run
from trainer.runs.export import result_folder
from trainer.runs.store import Store

_SUM = "default"
"""PEFT saves the adapter of this name at the top of the folder, where loaders look for it."""

_NEEDS_LORA = "must have trained LoRA to be combined with others"


def combine(store: Store, weights: Mapping[str, float], combination_type: str, target: Path) -> None:
    """Write the weighted sum of runs' adapters as an adapter that PEFT loads.

    Args:
        store: Where the runs are kept.
        weights: How much of each run's adapter, by id.
        combination_type: As in PEFT: ``cat`` is exact, and its rank is the sum of all ranks; ``svd`` is the closest
            approximation of the highest rank; ``linear`` adds the factors, which is rough.
        target: The folder to write or replace.

    Raises:
        RunError: If a run has saved no adapter, or the runs have different base models.
        PlanError: If adapters of these kinds cannot be combined.

    Source:
        PEFT 0.21, ``LoraModel.add_weighted_adapter``.
    """
    runs = [store.run(run_id) for run_id in weights]
    folders = [result_folder(store, run) for run in runs]
    whole = next((run for run in runs if not METHODS[run.plan.method].trains_adapter), None)
    if whole is not None:
        raise PlanError(f"run {whole.id}", _NEEDS_LORA, whole.plan.method)
    _check_base(runs)
    configs = [PeftConfig.from_pretrained(folder) for folder in folders]
    for run, config in zip(runs, configs, strict=True):
        _check_kind(run, config)
    model = _with_adapters(runs[0], folders)
    ranks = {rank for config in configs for rank in (config.r, *config.rank_pattern.values())}
    _check_ranks(model, ranks, combination_type)
    # The factors of the sum contain the scaling, and lora_alpha = r; rsLoRA (alpha / sqrt(r)) would scale it again.
    names = list(model.peft_config)
    model.peft_config[names[0]].use_rslora = False
    try:
        model.base_model.add_weighted_adapter(
            names,
            list(weights.values()),
            _SUM,
            combination_type=combination_type,
            svd_full_matrices=False,
        )
    except ValueError as error:
        raise PlanError("adapters", "PEFT cannot combine these", str(error)) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.replaced(target) as folder:
        model.save_pretrained(folder, selected_adapters=[_SUM])
        AutoTokenizer.from_pretrained(folders[0], trust_remote_code=False).save_pretrained(folder)


def _with_adapters(run: Run, folders: Sequence[Path]) -> Any:
    """Return the base model's shape with all adapters.

    Combining needs only the shapes of the base model: its memory is reserved but never written, so the system provides
    none. A Llama of 69 billion parameters took 0.3 GiB; torch 2.13.0 on Linux, 2026-11-22.
    """
    with torch.device(META):
        config = model_config(run.model)
        base = auto_class(config).from_config(config, dtype=torch.float32, trust_remote_code=False)
    base.to_empty(device="cpu")
    model = PeftModel.from_pretrained(base, folders[0], adapter_name="term_0", use_safetensors=True)
    for number, folder in enumerate(folders[1:], start=1):
        model.load_adapter(folder, adapter_name=f"term_{number}", use_safetensors=True)
    return model


def _check_base(runs: Sequence[Run]) -> None:
    other = next((run.model for run in runs if run.model != runs[0].model), None)
    if other is not None:
        raise RunError("combine", f"needs adapters of one base model, {runs[0].model}", other, "Leave that run out")


def _check_kind(run: Run, config: PeftConfig) -> None:
    """Refuse adapters that are more than a pair of factors beside unchanged weights."""
    if config.peft_type != "LORA":
        raise PlanError(f"run {run.id}", _NEEDS_LORA, run.plan.method)
    for given, words in (
        (config.modules_to_save, "a head of its own, which cannot be added"),
        (config.use_dora, "DoRA, whose magnitudes cannot be added"),
        (config.bias != "none", "biases besides the adapter"),
        (INITS[run.plan.init_lora_weights].changes_base, "PiSSA or OLoRA, which change the base model"),
    ):
        if given:
            raise PlanError(f"run {run.id}", f"cannot be combined with others: it trained {words}")


def _check_ranks(model: Any, ranks: set[int], combination_type: str) -> None:
    if combination_type == "linear" and len(ranks) > 1:
        raise PlanError("combination_type", "linear needs the same r everywhere", sorted(ranks), "Choose cat or svd")
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    smallest = min(min(layer.in_features, layer.out_features) for layer in layers)
    if combination_type == "svd" and max(ranks) > smallest:
        rule = f"svd needs every r at most {smallest:,}, the size of the smallest layer"
        raise PlanError("combination_type", rule, max(ranks), "Choose cat")


@door
def main(arguments: Sequence[str]) -> int:
    """Combine adapters; return the exit status."""
    folder, target, combination_type, *pairs = arguments
    weights = {run_id: float(weight) for run_id, _, weight in (pair.partition("=") for pair in pairs)}
    combine(Store(Path(folder)), weights, combination_type, Path(target))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
