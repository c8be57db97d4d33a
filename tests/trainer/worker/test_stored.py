"""Checkpoints that are quantized already: bitsandbytes' are trained as they are, MXFP4 and FP8 are expanded first."""

import json

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GptOssConfig, GptOssForCausalLM

from catalog import models
from estimator.estimate import trainable_params
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tracer.trace import trace
from specs import PlanError
from tests.trainer.waiting import killed_and_resumed, losses_of
from trainer.model.build import base_model, build, expanded, model_config
from trainer.results.merge import merge
from trainer.runs.contract import Place
from trainer.runs.export import RESULT

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

METHODS = {"4bit": "qlora", "8bit": "lora-8bit"}


def written_by_bitsandbytes(folder, source, tokenizer, kind):
    settings = {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True} if kind == "4bit" else {}
    quantization = BitsAndBytesConfig(**{f"load_in_{kind}": True}, **settings)
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=quantization, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def written_in_fp8(folder, source, tokenizer):
    """Blocks of 128 x 128 with one scale each, as DeepSeek-V3 has them."""
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        scale = tensors[name].float().abs().max() / 448
        tensors[name] = (tensors[name].float() / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale.reshape(1, 1)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    described(folder, {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"})
    tokenizer.save_pretrained(folder)
    return folder


def written_in_mxfp4(folder, tokenizer):
    """Experts in blocks of 32 values with one exponent each, as gpt-oss has them."""
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        eos_token_id=2,
        pad_token_id=0,
    )
    GptOssForCausalLM(config).bfloat16().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inner, outer = tensors.pop(name).shape
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (experts, outer, inner // 32, 16), dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.full((experts, outer, inner // 32), 121, dtype=torch.uint8)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    described(folder, {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]})
    tokenizer.save_pretrained(folder)
    return folder


def described(folder, quantization):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}), encoding="utf-8")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory, tiny_model, tiny_tokenizer):
    made = {}

    def folder(kind):
        if kind not in made:
            place = tmp_path_factory.mktemp(kind)
            if kind in METHODS:
                made[kind] = written_by_bitsandbytes(place, tiny_model, tiny_tokenizer, kind)
            elif kind == "fp8":
                made[kind] = written_in_fp8(place, tiny_model, tiny_tokenizer)
            else:
                made[kind] = written_in_mxfp4(place, tiny_tokenizer)
        return made[kind]

    return folder


@pytest.fixture
def place(folder_of, kind):
    return Place(model_path=str(folder_of(kind)))


CHOICES = [("4bit", "qlora"), ("8bit", "lora-8bit"), ("fp8", "qlora"), ("fp8", "lora"), ("mxfp4", "qlora")]


@pytest.mark.parametrize(("kind", "method"), [*CHOICES, ("mxfp4", "lora")])
def test_the_estimate_counts_what_the_trainer_loads(folder_of, plan_of, kind, method):
    plan = plan_of(method=method, dtype="bfloat16", lora_dropout=0.0)
    built = build(plan, str(folder_of(kind)), device="cpu")
    tape = trace(recipe(models.find(str(folder_of(kind))), plan, Conditions()), lambda _: None)
    trained = [weight for weight in built.parameters() if weight.requires_grad]
    assert trainable_params(tape, plan) == sum(weight.numel() for weight in trained)
    frozen = {id(weight): weight for weight in built.parameters() if not weight.requires_grad}
    held = sum(weight.nbytes for weight in frozen.values())
    residents = (entry for entry in tape.residents if entry.is_parameter and entry.component == "weights")
    assert held == sum(entry.elements(plan.r) * entry.itemsize * entry.count for entry in residents)


def test_a_checkpoint_of_bitsandbytes_keeps_its_own_quantization(folder_of, plan_of):
    model = build(plan_of(bnb_4bit_quant_type="nf4"), str(folder_of("4bit")), device="cpu")
    quantized = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert {module.weight.quant_state.quant_type for module in quantized} == {"fp4"}
    assert {module.compute_dtype for module in quantized} == {torch.float32}
    eight = build(plan_of(method="lora-8bit"), str(folder_of("8bit")), device="cpu")
    assert any(isinstance(module, Linear8bitLt) for module in eight.modules())


@pytest.mark.parametrize(
    ("kind", "method", "part"),
    [
        ("4bit", "lora", "must be qlora for a checkpoint that bitsandbytes has stored in 4 bit"),
        ("4bit", "full", "must be qlora"),
        ("8bit", "qlora", "must be lora-8bit"),
        ("mxfp4", "lora-8bit", "must not quantize a checkpoint in MXFP4 to 8 bit"),
    ],
)
def test_a_plan_for_other_weights_than_are_stored_is_refused_by_both_sides(folder_of, plan_of, kind, method, part):
    plan = plan_of(method=method)
    with pytest.raises(PlanError, match=part):
        build(plan, str(folder_of(kind)), device="cpu")
    with pytest.raises(PlanError, match=part):
        recipe(models.find(str(folder_of(kind))), plan, Conditions())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "method"), CHOICES)
def test_a_quantized_checkpoint_learns_answers_and_merges_in_16_bit(
    store, plan_of, chat_data, trained_here, tmp_path, kind, method
):
    run = trained_here(plan_of(method=method, max_steps=10, learning_rate=1e-2, lora_dropout=0.0), chat_data)
    losses = losses_of(store, run.id)
    assert losses[-1] < losses[0] - 0.3
    assert [answer.prompt for answer in store.answers(run.id)] == list(chat_data.prompts)
    merge(store, run, tmp_path / "merged")
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").float()
    # What is quantized anew is rounded once more than what is merged.
    plan = plan_of(method=method)
    whole = kind not in METHODS
    base = (
        expanded(run.model, model_config(run.model), AutoModelForCausalLM)
        if whole
        else base_model(plan, run.model, device="cpu")
    )
    tuned = PeftModel.from_pretrained(base, store.run_folder(run.id) / RESULT).eval()
    tokens = torch.arange(3, 19).reshape(1, 16)
    with torch.no_grad():
        expected, found = tuned(input_ids=tokens).logits, alone(input_ids=tokens).logits
    assert torch.nn.functional.cosine_similarity(expected.float(), found, dim=-1).min() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["4bit"])
def test_a_killed_run_of_a_quantized_checkpoint_is_resumed_on_the_same_curve(
    store, plan_of, chat_data, place, trained_here
):
    plan = plan_of(max_steps=40, save_steps=3)
    undisturbed = trained_here(plan, chat_data)
    killed = killed_and_resumed(store, plan, chat_data, place, at=4)
    assert losses_of(store, killed.id) == pytest.approx(losses_of(store, undisturbed.id), rel=1e-5)
