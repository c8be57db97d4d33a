"""Models that also read images or sound are trained on text: with random weights, by real workers."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig

from catalog import models
from estimator.estimate import trainable_params
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tracer.trace import trace
from tests.trainer import towers
from tests.trainer.waiting import killed_and_resumed, losses_of
from trainer.model.build import build
from trainer.model.towers import auto_class, text_tower
from trainer.results.merge import merge
from trainer.runs.contract import Place
from trainer.runs.export import RESULT

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

TYPES = sorted(towers.CONFIGS)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory, tiny_tokenizer):
    made = {}

    def folder(model_type):
        if model_type not in made:
            made[model_type] = towers.write(model_type, tmp_path_factory.mktemp(model_type) / "model", tiny_tokenizer)
        return made[model_type]

    return folder


@pytest.fixture(params=TYPES)
def model_type(request):
    return request.param


@pytest.fixture
def place(folder_of, model_type):
    return Place(model_path=str(folder_of(model_type)))


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_estimate_counts_what_the_trainer_loads(folder_of, plan_of, model_type, method):
    plan = plan_of(method=method, dtype="bfloat16")
    built = build(plan, str(folder_of(model_type)), device="cpu")
    tape = trace(recipe(models.find(str(folder_of(model_type))), plan, Conditions()), lambda _: None)
    trained = [weight for weight in built.parameters() if weight.requires_grad]
    assert trainable_params(tape, plan) == sum(weight.numel() for weight in trained)
    weights = {id(weight): weight for weight in built.get_base_model().parameters() if not weight.requires_grad}
    held = sum(weight.nbytes for weight in weights.values())
    assert held == sum(
        entry.elements(plan.r) * entry.itemsize * entry.count
        for entry in tape.residents
        if entry.is_parameter and entry.component == "weights"
    )


def test_an_adapter_is_put_only_where_text_passes_through(folder_of, plan_of, model_type):
    model = build(plan_of(method="lora"), str(folder_of(model_type)), device="cpu")
    tokens = torch.arange(3, 19).reshape(1, 16)
    model(input_ids=tokens, labels=tokens).loss.backward()
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    assert [name for name, weight in trained.items() if weight.grad is None] == []
    base = model.get_base_model()
    adapted = {id(weight) for name, weight in text_tower(base).named_parameters() if "lora_" in name}
    assert {id(weight) for weight in trained.values()} == adapted


@pytest.mark.slow
def test_a_model_with_towers_learns_answers_and_merges(store, plan_of, chat_data, trained_here, tmp_path):
    run = trained_here(plan_of(max_steps=10, learning_rate=1e-2), chat_data)
    losses = losses_of(store, run.id)
    assert losses[-1] < losses[0] - 0.3
    assert [answer.prompt for answer in store.answers(run.id)] == list(chat_data.prompts)
    merge(store, run, tmp_path / "merged")
    auto = auto_class(AutoConfig.from_pretrained(tmp_path / "merged"))
    alone = auto.from_pretrained(tmp_path / "merged").float()
    base = auto.from_pretrained(run.model, dtype=torch.float32)
    kept = {name: weight.clone() for name, weight in base.named_parameters() if "vision" in name or "audio" in name}
    tuned = PeftModel.from_pretrained(base, store.run_folder(run.id) / RESULT)
    tokens = torch.arange(3, 19).reshape(1, 16)
    with torch.no_grad():
        expected, found = tuned(input_ids=tokens).logits, alone(input_ids=tokens).logits
    assert torch.nn.functional.cosine_similarity(expected, found, dim=-1).min() > 0.999
    for name, weight in alone.named_parameters():
        if name in kept:
            assert torch.equal(weight, kept[name].bfloat16().float()), name


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["gemma3", "mllama"], indirect=True)
def test_a_killed_run_of_a_model_with_towers_is_resumed_on_the_same_curve(
    store, plan_of, chat_data, place, trained_here
):
    plan = plan_of(max_steps=40, save_steps=3)
    undisturbed = trained_here(plan, chat_data)
    killed = killed_and_resumed(store, plan, chat_data, place, at=4)
    assert losses_of(store, killed.id) == pytest.approx(losses_of(store, undisturbed.id), rel=1e-5)
    saved = load_file(store.run_folder(killed.id) / RESULT / "adapter_model.safetensors")
    assert not [name for name in saved if "vision" in name]
