"""Families with recurrent layers, or keys and embeddings that layers share: built and trained for real on the CPU."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from catalog import models
from estimator.estimate import trainable_params
from estimator.replay.replay import Replay
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tracer.trace import trace
from specs import GIB, GpuSpec
from tests.estimator.families import FAMILIES
from tests.trainer.waiting import killed_and_resumed, losses_of
from trainer.model.build import build
from trainer.results.merge import merge
from trainer.runs.contract import Place
from trainer.runs.export import RESULT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]

CPU = GpuSpec(name="bare", backend="cpu", memory_bytes=GIB, usable_bytes=GIB)
TRAINED = (
    "qwen3_5 with gated delta nets",
    "qwen3_next with experts",
    "granite 4 with Mamba-2 and experts",
    "bamba",
    "falcon_h1 with both in each layer",
    "nemotron_h",
    "mamba2 without attention",
    "lfm2_moe with convolutions",
    "gemma3n",
    "gemma4 with shared keys and embeddings for each layer",
)
QUANTIZED = (
    "qwen3_next with experts",
    "granite 4 with Mamba-2 and experts",
    "gemma4 with shared keys and embeddings for each layer",
)
"""Those whose 4-bit weights are of all kinds: stacked experts, recurrent layers, and shared ones."""


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory, tiny_tokenizer):
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("family") / "model"
            torch.manual_seed(0)
            values = {key: value for key, value in FAMILIES[name].items() if key != "model_type"}
            values |= {"vocab_size": len(tiny_tokenizer), "pad_token_id": 0}
            if "vocab_size_per_layer_input" in values:
                values["vocab_size_per_layer_input"] = len(tiny_tokenizer)
            config = AutoConfig.for_model(FAMILIES[name]["model_type"], **values)
            AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(made[name])
            tiny_tokenizer.save_pretrained(made[name])
        return made[name]

    return folder


@pytest.mark.parametrize(
    ("method", "name"), [*(("lora", name) for name in TRAINED), *(("qlora", name) for name in QUANTIZED)]
)
def test_a_tape_counts_what_is_built_and_holds_what_autograd_saves(folder_of, plan_of, name, method):
    folder, length = str(folder_of(name)), 448
    plan = plan_of(
        method=method,
        dtype="bfloat16",
        bf16=False,
        loss="full",
        lora_dropout=0.0,
        per_device_train_batch_size=2,
        max_length=length,
    )
    built = build(plan, folder, device="cpu")
    conditions = Conditions(padding="none", attention_kernel="cpu", caller_holds_outputs=True)
    tape = trace(recipe(models.find(folder), plan, conditions, CPU), lambda _: None)
    trained = [weight for weight in built.parameters() if weight.requires_grad]
    assert trainable_params(tape, plan) == sum(weight.numel() for weight in trained)
    assert held(tape, plan) == sum(weight.nbytes for weight in {id(p): p for p in built.parameters()}.values())
    replay = Replay(tape, plan, CPU)
    turn = tape.program.forward_events
    assert replay.allocated[turn - 1] - replay.allocated[0] == pytest.approx(saved(built, length), rel=2e-3)


def held(tape, plan):
    return sum(e.elements(plan.r) * e.itemsize * e.count for e in tape.residents if e.is_parameter)


def saved(model, length):
    """Return the bytes of everything that autograd keeps of one forward pass, besides weights, and of the outputs."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.zeros(2, length, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = model(input_ids=ids, labels=ids, use_cache=False)
    note(outputs.logits)
    return sum(found.values())


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "gemma3n"])
def test_a_family_learns_in_4_bit(store, folder_of, plan_of, chat_data, trained_from, name):
    plan = plan_of(method="qlora", max_steps=6, learning_rate=2e-2, lora_dropout=0.0)
    run = trained_from(plan, chat_data, Place(model_path=str(folder_of(name))))
    losses = losses_of(store, run.id)
    assert len(losses) == 6
    assert sum(losses[-2:]) < 0.99 * sum(losses[:2])


@pytest.mark.parametrize("name", ["granite 4 with Mamba-2 and experts"])
def test_a_killed_run_of_a_hybrid_goes_on_and_merges(
    store, folder_of, plan_of, chat_data, trained_from, tmp_path, name
):
    place = Place(model_path=str(folder_of(name)))
    plan = plan_of(method="qlora", max_steps=6, save_steps=2, learning_rate=2e-2, lora_dropout=0.0)
    undisturbed = trained_from(plan, chat_data, place)
    killed = killed_and_resumed(store, plan, chat_data, place, at=3)
    assert losses_of(store, killed.id) == pytest.approx(losses_of(store, undisturbed.id), rel=1e-4)
    merge(store, killed, tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(killed.model, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, store.run_folder(killed.id) / RESULT)
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").float()
    ids = torch.arange(3, 19).reshape(1, 16)
    # A merge rounds its sum to 16 bit once, which a recurrent layer with random weights carries on from token to token.
    rounded = tuned.merge_and_unload().to(alone.config.dtype or torch.bfloat16).float()
    with torch.no_grad():
        expected, found = rounded(ids).logits, alone(ids).logits
    assert torch.nn.functional.cosine_similarity(expected, found, dim=-1).min() > 0.999
