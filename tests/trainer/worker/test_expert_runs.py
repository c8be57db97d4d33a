"""Adapters on the experts of a mixture, trained by real workers: killed, resumed, merged; in 16 bit and in 4 bit."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from tests.trainer.waiting import killed_and_resumed, losses_of
from trainer.results.merge import merge
from trainer.runs.contract import Place
from trainer.runs.export import RESULT

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory, tiny_tokenizer):
    """A random Qwen3-MoE of two layers with four experts each."""
    folder = tmp_path_factory.mktemp("mixture")
    config = Qwen3MoeConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def place(mixture):
    return Place(model_path=str(mixture))


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_on_experts_learn_and_merge(store, plan_of, chat_data, trained_here, tmp_path, method):
    plan = plan_of(method=method, target_parameters=EXPERTS, max_steps=10, learning_rate=1e-2)
    run = trained_here(plan, chat_data)
    losses = losses_of(store, run.id)
    assert losses[-1] < losses[0] - 0.3
    merge(store, run, tmp_path / "merged")
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").float()
    base = AutoModelForCausalLM.from_pretrained(run.model, dtype=torch.float32)
    tokens = torch.arange(3, 19).reshape(1, 16)
    with torch.no_grad():
        before = base(input_ids=tokens).logits
        tuned = PeftModel.from_pretrained(base, store.run_folder(run.id) / RESULT)
        expected, found = tuned(input_ids=tokens).logits, alone(input_ids=tokens).logits
    assert torch.nn.functional.cosine_similarity(expected, found, dim=-1).min() > 0.999
    assert torch.nn.functional.cosine_similarity(before, found, dim=-1).min() < 0.999


@pytest.mark.slow
def test_a_killed_run_with_adapters_on_experts_in_4_bit_is_resumed_on_the_same_curve(
    store, plan_of, chat_data, place, trained_here
):
    plan = plan_of(target_parameters=EXPERTS, max_steps=40, save_steps=3)
    undisturbed = trained_here(plan, chat_data)
    killed = killed_and_resumed(store, plan, chat_data, place, at=4)
    assert losses_of(store, killed.id) == pytest.approx(losses_of(store, undisturbed.id), rel=1e-5)
