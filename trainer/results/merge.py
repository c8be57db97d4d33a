"""Merges an adapter into its base model; runs in a separate process.

``python -m trainer.results.merge RUNS_FOLDER RUN_ID TARGET``
"""

import importlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoTokenizer
from transformers.utils import cached_file

from specs import METHODS, TASK_TYPES, PlanError
from specs.doors.door import door
from trainer import files
from trainer.model.build import class_of, expanded, model_config
from trainer.runs.cards import model_card
from trainer.runs.contract import Run
from trainer.runs.export import result_folder
from trainer.runs.store import Store

_BESIDE = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "tokenizer.model")
"""What is read beside a model: by transformers with towers, and by llama.cpp's converter."""


def merge(store: Store, run: Run, target: Path) -> None:
    """Write the base model with the run's adapter merged in, in 16 bit, as a folder that any tool can load.

    The base is loaded unquantized: merging into 4-bit weights would round away what was learned.

    Raises:
        PlanError: If the run trained no adapter.
        RunError: If the run has saved no adapter yet, or the target folder is not empty.
    """
    adapter = result_folder(store, run)
    kind = METHODS[run.plan.method].adapter
    if kind is None:
        raise PlanError(
            "method", "must train an adapter for the run to be merged", run.plan.method, f"The model is in {adapter}"
        )
    if kind.unmerged:
        rule = f"{kind.unmerged}, so that it cannot be merged"
        raise PlanError("method", rule, run.plan.method, "Use the adapter with PEFT")
    files.require_new(target)
    dtype = torch.float16 if run.plan.dtype == "float16" else torch.bfloat16
    # The sum is taken in 32 bit and rounded once.
    config = model_config(adapter if TASK_TYPES[run.plan.task_type].has_head else run.model)
    base = expanded(run.model, config, class_of(run.plan, config))
    merged = PeftModel.from_pretrained(base, adapter, use_safetensors=True).merge_and_unload(safe_merge=True).to(dtype)
    merged.config.dtype = dtype
    with files.replaced(target) as folder:
        if TASK_TYPES[run.plan.task_type].embeds:
            embedding = importlib.import_module("trainer.model.embedding")  # it takes seconds to import
            embedder = embedding.sentence_transformer(run.plan, merged, str(adapter), device="cpu")
            embedder.save_pretrained(str(folder), create_model_card=False)
        else:
            merged.save_pretrained(folder)
        AutoTokenizer.from_pretrained(adapter, trust_remote_code=False).save_pretrained(folder)
        _copy_beside(run.model, folder)
        card = model_card(run, store.metrics(run.id), merged=True)
        (folder / "README.md").write_text(card, encoding="utf-8")


def _copy_beside(model: str, folder: Path) -> None:
    """Copy what a model needs besides to be served: what turns images and sound into its input, and its vocabulary."""
    for name in _BESIDE:
        found = cached_file(model, name, _raise_exceptions_for_missing_entries=False)
        if found is not None:
            shutil.copyfile(found, folder / name)


@door
def main(arguments: Sequence[str]) -> int:
    """Merge one run's adapter; return the exit status."""
    folder, run_id, target = arguments
    store = Store(Path(folder))
    merge(store, store.run(run_id), Path(target).resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
