import dataclasses
import json
import math
import threading

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from specs import METHODS, PlanError, RunError
from tests.trainer.worker.test_other_adapters import COVERED
from trainer.data.source import DataSource
from trainer.results.merge import merge
from trainer.runs.contract import State
from trainer.runs.export import RESULT
from trainer.runs.session import Session
from trainer.worker.loop.trainers import TENSORBOARD
from trainer.worker.train import train

pytestmark = [
    # PEFT 0.21 reads a property that transformers 5.23 has renamed.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    # A run with trained biases asks the base model before the training, as the warning wants.
    pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers with bias.*:UserWarning"),
    # What transformers 5.23 generates with comes with positions, which PEFT 0.21 lets the model count itself.
    pytest.mark.filterwarnings("ignore:Position ids are not supported.*:UserWarning"),
]


@pytest.fixture
def trained(store, chat_data, trained_here):
    """Trains a plan in this process; returns the run and its metrics."""

    def train_here(plan):
        run = trained_here(plan, chat_data)
        return run, store.metrics(run.id)

    return train_here


@pytest.mark.parametrize(
    "values",
    [
        *(pytest.param({"method": method}, id=method) for method in METHODS if method not in COVERED),
        pytest.param({"bnb_4bit_quant_type": "fp4"}, id="fp4"),
        pytest.param({"bnb_4bit_use_double_quant": False}, id="without double quantization"),
        pytest.param({"use_dora": True}, id="DoRA over 4 bit"),
        pytest.param({"loraplus_lr_ratio": 16.0}, id="LoRA+"),
        pytest.param({"method": "lora", "init_lora_weights": "pissa"}, id="PiSSA"),
        pytest.param({"bias": "all"}, id="biases"),
        pytest.param({"target_modules": ("q_proj", "v_proj"), "lora_dropout": 0.1}, id="attention alone"),
        pytest.param({"gradient_checkpointing": True}, id="checkpointing"),
        pytest.param({"gradient_checkpointing": True, "use_reentrant": True}, id="reentrant checkpointing"),
        pytest.param({"prepare_kbit": True}, id="prepared for kbit"),
        pytest.param({"packing": True}, id="packing"),
        pytest.param({"completion_only_loss": False}, id="loss over the prompt too"),
        pytest.param({"gradient_accumulation_steps": 3, "max_steps": 4}, id="accumulation"),
        pytest.param({"lr_scheduler_type": "cosine", "warmup_steps": 0.5}, id="cosine with warm-up"),
        pytest.param({"optim": "adamw_torch"}, id="adamw_torch"),
        pytest.param({"optim": "adafactor"}, id="adafactor"),
        pytest.param({"optim": "sgd", "learning_rate": 0.2}, id="sgd"),
    ],
)
def test_every_way_to_train_learns_and_saves(store, trained, plan_of, values):
    plan = plan_of(**{"learning_rate": 1e-2, "max_steps": 8, "save_steps": 100, **values})
    run, metrics = trained(plan)
    losses = [metric.loss for metric in metrics]
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-3:]) < sum(losses[:3])
    assert run.total_steps == run.step == plan.max_steps
    name = "adapter_model.safetensors" if METHODS[plan.method].trains_adapter else "model.safetensors"
    assert load_file(store.run_folder(run.id) / RESULT / name)
    assert len(store.answers(run.id)) == 1


def test_chunked_and_full_loss_are_the_same_number(trained, plan_of):
    chunked, full = (trained(plan_of(loss=loss, max_steps=3))[1] for loss in ("chunked", "full"))
    for one, other in zip(chunked, full, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


def test_levers_of_memory_change_neither_a_loss_nor_an_answer(store, trained, plan_of):
    plain = plan_of(gradient_checkpointing=True, max_steps=3)
    levers = {"every_n_layers": 2, "activation_offloading": True, "layer_offloading": True}
    (run, kept), (other, moved) = (trained(plan) for plan in (plain, dataclasses.replace(plain, **levers)))
    assert [entry.loss for entry in moved] == [entry.loss for entry in kept]
    assert store.answers(other.id) == store.answers(run.id)
    assert store.answers(run.id)


def test_accumulation_gives_the_loss_of_one_large_batch(trained, plan_of):
    large = trained(plan_of(per_device_train_batch_size=4, max_steps=3))[1]
    accumulated = trained(plan_of(per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=3))[1]
    for one, other in zip(large, accumulated, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)


def test_held_out_rows_are_evaluated_and_epochs_decide_the_steps(trained, plan_of):
    run, metrics = trained(plan_of(max_steps=-1, num_train_epochs=1.0, eval_split=0.25, save_steps=2))
    assert any(metric.eval_loss is not None and metric.loss is not None for metric in metrics)
    # Six questions of four rows each: two are held out, and 16 rows make 8 steps of 2.
    assert run.total_steps == run.step == 8


def test_the_saved_adapter_has_the_dtype_of_the_plan(store, trained, plan_of):
    run, _ = trained(plan_of(adapter_dtype="float32", max_steps=1))
    weights = load_file(store.run_folder(run.id) / RESULT / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@pytest.fixture
def preferences(tmp_path):
    path = tmp_path / "pairs.jsonl"
    words = ("one", "two", "three", "four")
    rows = [
        {"prompt": f"What comes after {word}?", "chosen": f"{word} and more.", "rejected": "No."} for word in words * 4
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return DataSource(path=str(path))


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_preference_pairs_are_learned_by_dpo_against_the_base_model(store, preferences, place, plan_of, method):
    store.create(plan_of(method=method, learning_rate=5e-3, max_steps=8), preferences, place=place)
    run = store.claim_next(place.device)
    assert train(Session(run, store, threading.Event())) is State.FINISHED
    losses = [metric.loss for metric in store.metrics(run.id)]
    assert losses[0] == pytest.approx(math.log(2), rel=1e-3)  # adapter and reference agree before the first step
    assert losses[-1] < losses[0]
    weights = load_file(store.run_folder(run.id) / RESULT / "adapter_model.safetensors")
    assert weights
    assert not any("ref" in name for name in weights)


def test_preference_pairs_need_a_base_model_that_stays(store, preferences, place, plan_of):
    store.create(plan_of(method="full"), preferences, place=place)
    run = store.claim_next(place.device)
    with pytest.raises(PlanError, match="must keep the base model unchanged"):
        train(Session(run, store, threading.Event()))


@pytest.mark.parametrize("method", ["lora", "qlora", "dora"])
def test_a_merged_model_says_what_the_adapter_says(store, trained, plan_of, tmp_path, method):
    run, _ = trained(plan_of(method=method, learning_rate=1e-2))
    merge(store, run, tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(run.model, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, store.run_folder(run.id) / RESULT)
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = torch.arange(3, 19).reshape(1, 16)
    assert alone.dtype == torch.bfloat16
    with torch.no_grad():
        expected, found = tuned(ids).logits, alone.float()(ids).logits
    assert torch.nn.functional.cosine_similarity(expected, found, dim=-1).min() > 0.999


def test_a_folder_that_is_taken_is_not_merged_into(store, trained, plan_of, tmp_path):
    run, _ = trained(plan_of(max_steps=1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(RunError, match="must be a new or empty folder"):
        merge(store, run, tmp_path / "full")


def test_what_is_trained_is_written_for_tensorboard_too(store, trained, plan_of):
    run, _ = trained(plan_of(max_steps=1))
    assert list((store.run_folder(run.id) / TENSORBOARD).glob("events.out.tfevents.*"))


@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3"])
def test_sharding_that_no_run_can_do_here_is_refused_with_a_way_out(trained, plan_of, sharding):
    with pytest.raises(PlanError, match=f"ZeRO is DeepSpeed's, which runs do not use, got {sharding}. Choose fsdp, or"):
        trained(plan_of(num_gpus=2, sharding=sharding))
