"""Mixtures in 4 bit, trained for real: the loss falls, a killed run goes on, the result is an adapter that merges."""

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from tests.trainer.model.test_experts import MIXTURES, SIZES
from tests.trainer.waiting import killed_and_resumed, losses_of
from trainer.results.merge import merge
from trainer.runs.contract import Place
from trainer.runs.export import RESULT

pytestmark = [
    pytest.mark.slow,
    # PEFT 0.21 reads a property that transformers 5.23 has renamed.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]


@pytest.fixture
def mixture(tmp_path, tiny_tokenizer):
    """Saves a random mixture of a kind with the tiny tokenizer."""

    def made(kind):
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **SIZES | MIXTURES[kind] | {"vocab_size": len(tiny_tokenizer)})
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / kind)
        tiny_tokenizer.save_pretrained(tmp_path / kind)
        return Place(model_path=str(tmp_path / kind))

    return made


def attention_plan(plan_of, kind, **values):
    targets = ("q_b_proj", "o_proj") if kind == "deepseek_v3" else ("q_proj", "v_proj", "o_proj")
    rate = 2e-2 if kind == "ernie4_5_moe" else 5e-2  # at 5e-2 it jumps, and how far back depends on the processor
    return plan_of(max_steps=10, learning_rate=rate, lora_dropout=0.0, target_modules=targets, **values)


def agreement(store, run, merged):
    """How alike the logits of the merged model and of the adapter over the 16-bit base are, at worst."""
    base = AutoModelForCausalLM.from_pretrained(run.model, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, store.run_folder(run.id) / RESULT)
    alone = AutoModelForCausalLM.from_pretrained(merged)
    assert alone.dtype == torch.bfloat16
    ids = torch.arange(3, 19).reshape(1, 16)
    with torch.no_grad():
        expected, found = tuned(ids).logits, alone.float()(ids).logits
    return torch.nn.functional.cosine_similarity(expected, found, dim=-1).min()


def saved_names(store, run_id):
    with safe_open(store.run_folder(run_id) / RESULT / "adapter_model.safetensors", "pt") as tensors:
        return list(tensors.keys())


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        pytest.param("qwen3_moe", {"gradient_checkpointing": True}, id="qwen3_moe"),
        pytest.param("mixtral", {}, id="mixtral"),
        pytest.param("gpt_oss", {"gradient_checkpointing": True, "use_reentrant": True}, id="gpt_oss"),
        pytest.param("deepseek_v3", {"prepare_kbit": True}, id="deepseek_v3"),
        pytest.param("ernie4_5_moe", {"bnb_4bit_quant_storage": "bfloat16"}, id="ernie4_5_moe"),
    ],
)
def test_a_mixture_learns_in_4_bit_and_merges_in_16(
    store, mixture, plan_of, chat_data, trained_from, tmp_path, kind, values
):
    run = trained_from(attention_plan(plan_of, kind, **values), chat_data, mixture(kind))
    losses = losses_of(store, run.id)
    assert len(losses) == 10
    assert sum(losses[-3:]) < 0.98 * sum(losses[:3])
    assert [answer.prompt for answer in store.answers(run.id)] == ["What comes after one?"]
    assert all("lora" in name and "experts" not in name for name in saved_names(store, run.id))
    merge(store, run, tmp_path / "merged")
    assert agreement(store, run, tmp_path / "merged") > 0.999


def test_a_killed_mixture_is_resumed_on_the_same_curve(store, mixture, plan_of, chat_data, trained_from, tmp_path):
    place = mixture("qwen3_moe")
    plan = attention_plan(plan_of, "qwen3_moe", save_steps=3, gradient_checkpointing=True)
    undisturbed = trained_from(plan, chat_data, place)
    killed = killed_and_resumed(store, plan, chat_data, place, at=4)
    assert losses_of(store, killed.id) == pytest.approx(losses_of(store, undisturbed.id), rel=1e-4)
    assert all("lora" in name for name in saved_names(store, killed.id))
    merge(store, killed, tmp_path / "merged")
    assert agreement(store, killed, tmp_path / "merged") > 0.999
