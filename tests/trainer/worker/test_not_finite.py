"""A loss that is no number at a chosen step: the run ends there, and resumes from weights that are numbers."""

import json
import threading

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from trainer.data.source import DataSource
from trainer.failure import NotFiniteError
from trainer.results import checkpoints
from trainer.runs.contract import Place, State
from trainer.runs.session import Session
from trainer.worker.train import train

ROWS, RARE = 12, "~"


@pytest.fixture
def poisoned(tmp_path, tiny_config, tiny_tokenizer):
    """A model that knows no number for one sign, and data in which it stands in one row."""
    tiny_config = type(tiny_config).from_dict(tiny_config.to_dict() | {"tie_word_embeddings": False})
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config)
    (token,) = tiny_tokenizer.encode(RARE, add_special_tokens=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = float("nan")
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"prompt": f"What is {n}?", "completion": RARE if n == 8 else "It is."} for n in range(ROWS)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return Place(model_path=str(tmp_path / "model")), DataSource(path=str(path))


@pytest.mark.parametrize("logging_steps", [1, 5])
def test_no_checkpoint_keeps_weights_that_are_no_numbers(store, plan_of, poisoned, logging_steps):
    place, data = poisoned
    plan = plan_of(
        method="lora", max_steps=ROWS, per_device_train_batch_size=1, save_steps=1, logging_steps=logging_steps
    )
    run = store.create(plan, data, place=place)
    told = []
    for _ in range(2):
        claimed = store.claim_next(place.device)
        with pytest.raises(NotFiniteError) as error:
            train(Session(claimed, store, threading.Event()))
        told.append(str(error.value))
        store.enter(run.id, State.FAILED)
        store.request_resume(run.id)
    newest = checkpoints.newest(store.run_folder(run.id))
    assert all(bool(weight.isfinite().all()) for weight in load_file(newest / "adapter_model.safetensors").values())
    assert told[0] == told[1]
    step = int(newest.name.removeprefix("checkpoint-")) + 1
    assert 1 < step < ROWS
    assert f"step {step}" in told[0]
