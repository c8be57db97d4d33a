"""Adds adapters up; runs as a process of its own.

``python -m trainer.results.combine RUNS_FOLDER TARGET TYPE ID=WEIGHT...``
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer

from specs import LorafitError, PlanError, RunError
from trainer import files
from trainer.model.build import META, model_config
from trainer.runs.contract import Run
from trainer.runs.export import combined_card, result_folder
from trainer.runs.store import Store

_SUM = "default"
"""PEFT saves the adapter of this name at the top of a folder, where it is looked for."""


def combine(store: Store, weights: Mapping[str, float], combination_type: str, target: Path) -> None:
    """Write the weighted sum of runs' adapters as an adapter that PEFT loads.

    Args:
        store: Where the runs are kept.
        weights: How much of each run's adapter, by id.
        combination_type: PEFT's word: ``cat`` is exact, its rank the sum of all; ``svd`` is the nearest sum of the
            highest rank; ``linear`` adds the factors up, which is rough.
        target: The folder to write or replace.

    Raises:
        RunError: If a run has saved no adapter, or the runs have different base models.
        PlanError: If adapters of these kinds cannot be added up.

    Source:
        PEFT 0.21, ``LoraModel.add_weighted_adapter``.
    """
    runs = [store.run(run_id) for run_id in weights]
    folders = [result_folder(store, run) for run in runs]
    _check_base(runs)
    configs = [PeftConfig.from_pretrained(folder) for folder in folders]
    for run, config in zip(runs, configs, strict=True):
        _check_kind(run, config)
    model = _with_adapters(runs[0], folders)
    ranks = {rank for config in configs for rank in (config.r, *config.rank_pattern.values())}
    _check_ranks(model, ranks, combination_type)
    # The sum has the scaling in its factors and lora_alpha = r; rsLoRA, alpha over the root of r, would scale it again.
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
        raise PlanError("adapters", "PEFT cannot add these up", str(error)) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.replaced(target) as folder:
        model.save_pretrained(folder, selected_adapters=[_SUM])
        AutoTokenizer.from_pretrained(folders[0], trust_remote_code=False).save_pretrained(folder)
        card = combined_card(runs, list(weights.values()), combination_type)
        (folder / "README.md").write_text(card, encoding="utf-8")


def _with_adapters(run: Run, folders: Sequence[Path]) -> Any:
    """Return the base model's shape with all adapters on it.

    Adding up needs the shapes of the base alone: its memory is asked for and never written, so that the system gives
    none. A Llama of 69 billion parameters took 0.3 GiB; torch 2.13.0 on Linux, 2026-11-22.
    """
    with torch.device(META):
        base = AutoModelForCausalLM.from_config(
            model_config(run.model), dtype=torch.float32, trust_remote_code=False
        ).to_empty(device="cpu")
    model = PeftModel.from_pretrained(base, folders[0], adapter_name="term_0", use_safetensors=True)
    for number, folder in enumerate(folders[1:], start=1):
        model.load_adapter(folder, adapter_name=f"term_{number}", use_safetensors=True)
    return model


def _check_base(runs: Sequence[Run]) -> None:
    other = next((run.model for run in runs if run.model != runs[0].model), None)
    if other is not None:
        raise RunError("combine", f"needs adapters of one base model, {runs[0].model}", other, "Leave that run out")


def _check_kind(run: Run, config: PeftConfig) -> None:
    """Refuse what is no plain pair of factors beside unchanged weights."""
    if config.peft_type != "LORA":
        raise PlanError(f"run {run.id}", "must have trained LoRA to be added to others", run.plan.method)
    for given, words in (
        (config.use_dora, "DoRA, whose magnitudes have no sum"),
        (config.bias != "none", "biases beside the adapter"),
        (run.plan.init_lora_weights == "pissa", "PiSSA, whose base model is another one"),
    ):
        if given:
            raise PlanError(f"run {run.id}", f"cannot be added to others: it trained {words}")


def _check_ranks(model: Any, ranks: set[int], combination_type: str) -> None:
    if combination_type == "linear" and len(ranks) > 1:
        raise PlanError("combination_type", "linear needs the same r everywhere", sorted(ranks), "Choose cat or svd")
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    smallest = min(min(layer.in_features, layer.out_features) for layer in layers)
    if combination_type == "svd" and max(ranks) > smallest:
        rule = f"svd needs every r at most {smallest:,}, the size of the smallest layer"
        raise PlanError("combination_type", rule, max(ranks), "Choose cat")


def main(arguments: list[str]) -> int:
    """Combine adapters; return the exit status."""
    folder, target, combination_type, *pairs = arguments
    weights = {run_id: float(weight) for run_id, _, weight in (pair.partition("=") for pair in pairs)}
    try:
        combine(Store(Path(folder)), weights, combination_type, Path(target))
    except LorafitError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
