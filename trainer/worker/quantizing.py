"""Rounds a run's model, and measures what that costs: ``python -m trainer.worker.quantizing RUNS_FOLDER RUN_ID WAY``.

Both models read the same rows that the run did not learn, and the general text. What is measured is the model as it is
loaded from the files that were written.
"""

import dataclasses
import importlib
import json
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from specs import METHODS, gib
from specs.doors.door import door
from specs.taken import size_bytes
from trainer import files
from trainer.results import evaluation, judgement, quantizing
from trainer.results.judgement import Compared
from trainer.results.merge import merge
from trainer.runs import cards
from trainer.runs.export import MERGED, result_folder
from trainer.runs.session import Session
from trainer.runs.store import Store
from trainer.worker.judging.reading import IGNORED, Learned, general_passages, losses
from trainer.worker.rows import unlearned_rows
from trainer.worker.splitting import drawn

_BEFORE = "model in 16 bit"


def quantize(session: Session, way: str) -> None:
    """Write the rounded model with its card and what was measured, in place of an earlier one.

    Raises:
        PlanError: If the run trained nothing that can be merged.
        NotFiniteError: If a loss is none that can be compared.
    """
    began, run, store = time.monotonic(), session.run, session.store
    target = quantizing.folder(store, run, way)
    with files.scratch_folder(store.run_folder(run.id)) as scratch, _whole(session, scratch) as source:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=True)
        rows, passages = _rows(session, tokenizer), _passages(session, tokenizer)
        before = _losses(_loaded(source, session.device), (rows, passages))
        new = scratch / "quantized"
        model = _loaded(source, session.device, config=_config(way))
        model.save_pretrained(new)
        del model
        tokenizer.save_pretrained(new)
        after = _losses(_loaded(new, session.device), (rows, passages))
        compared = [*_compared("loss", "Loss per token", rows, before[0], after[0])]
        compared += _compared("general", "Loss per token of general text", passages, before[1], after[1])
        sizes = [sum(map(size_bytes, folder.glob("*.safetensors"))) for folder in (source, new)]
        found = {
            "way": way,
            "label": quantizing.WAYS[way].label,
            "sentence": _sentence(way, compared, sizes),
            "compared": judgement.as_json(compared),
            "before_bytes": sizes[0],
            "after_bytes": sizes[1],
            "step": run.result_step,
            "seconds": round(time.monotonic() - began, 1),
        }
        (new / quantizing.FOUND).write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
        card = cards.model_card(run, store.metrics(run.id), merged=METHODS[run.plan.method].trains_adapter)
        (new / "README.md").write_text(f"{card}\n## Quantized\n{found['sentence']}\n", encoding="utf-8")
        with files.replaced(target) as folder:
            for path in new.iterdir():
                path.rename(folder / path.name)


@contextmanager
def _whole(session: Session, scratch: Path) -> Iterator[Path]:
    """Yield the folder of the whole model in 16 bit: merged before, merged now, or the run's own result."""
    run, store = session.run, session.store
    merged = store.run_folder(run.id) / MERGED.format(run.result_step)
    if not METHODS[run.plan.method].trains_adapter:
        yield result_folder(store, run)
    elif merged.is_dir():
        yield merged
    else:
        merge(store, run, scratch / "merged")
        yield scratch / "merged"


def _config(way: str) -> Any:
    """Return how transformers rounds a model while it loads it."""
    if way == "torchao-int8":
        configs = importlib.import_module("torchao.quantization")  # may be missing
        return importlib.import_module("transformers").TorchAoConfig(configs.Int8WeightOnlyConfig())
    if way == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=way, bnb_4bit_compute_dtype=torch.bfloat16)


def _loaded(folder: Path, device: str, *, config: Any = None) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16,
        device_map=device,
        # None would hide the one that a quantized model brings.
        **({} if config is None else {"quantization_config": config}),
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    ).eval()


def _rows(session: Session, tokenizer: Any) -> Sequence[Learned]:
    """Return rows that the run did not learn; none if it learned all."""
    if evaluation.learned_all(session.run):
        return ()
    with unlearned_rows(session, tokenizer, None) as data:
        some = drawn(data, evaluation.MOST_ROWS, seed=session.plan.seed)
    return [(row["input_ids"], row["labels"]) for row in some if "labels" in row]


def _passages(session: Session, tokenizer: Any) -> Sequence[Learned]:
    most = session.plan.per_device_train_batch_size * session.plan.max_length
    return [(ids, ids) for text in general_passages() if (ids := tokenizer(text)["input_ids"][:most])]


def _losses(model: Any, parts: Sequence[Sequence[Learned]]) -> list[list[float]]:
    return [[*losses(model, part, chunked=True)] for part in parts]


def _compared(
    name: str, label: str, rows: Sequence[Learned], before: Sequence[float], after: Sequence[float]
) -> Iterator[Compared]:
    """Yield the change of a loss, if anything was read."""
    tokens = [sum(one != IGNORED for one in labels[1:]) for _, labels in rows]
    read = [each for each in zip(before, after, tokens, strict=True) if each[2]]
    if read:
        yield dataclasses.replace(judgement.losses(name, label, read), of=_BEFORE)


def _sentence(way: str, compared: Sequence[Compared], sizes: Sequence[int]) -> str:
    """Return what was gained and lost in one sentence with its numbers."""
    told = []
    for one in compared:
        before, after = judgement.perplexities(one)
        on = "rows that were not learned" if one.name == "loss" else "passages of general text"
        low, high = (100 * math.expm1(bound) for bound in (one.low, one.high))
        told.append(
            f"perplexity {before:.4g} → {after:.4g} on {one.rows:,} {on} ({low:+.1f}% to {high:+.1f}%, 95% confidence)"
        )
    return f"{quantizing.WAYS[way].label}: {gib(sizes[0])} → {gib(sizes[1])}; {'; '.join(told)}."


@door
def main(arguments: Sequence[str]) -> int:
    """Round one run's model; return the exit status."""
    folder, run_id, way = arguments
    store = Store(Path(folder))
    quantize(Session(store.run(run_id), store, threading.Event()), way)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
