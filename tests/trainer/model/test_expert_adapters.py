import json

import pytest
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, GptOssConfig, Qwen3MoeConfig

from specs import FinetunePlan, PlanError
from trainer.model.build import base_model, build
from trainer.model.expert_adapters import reaching_experts
from trainer.model.layers import layers

SIZES = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts_per_tok": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS = {
    "qwen3_moe": Qwen3MoeConfig(**SIZES, num_experts=4, moe_intermediate_size=64, intermediate_size=96),
    "gpt_oss": GptOssConfig(**SIZES, num_local_experts=4, intermediate_size=64),  # stores its experts transposed
}
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


@pytest.fixture(scope="module", params=list(CONFIGS))
def folder(request, tmp_path_factory):
    """A random mixture of two layers."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[request.param]).save_pretrained(folder)
    return str(folder)


def planned(method, folder, **values):
    return FinetunePlan.for_method(method, folder, r=4, dtype="float32", target_parameters=EXPERTS, **values)


def trained(model):
    return {name: tuple(weight.shape) for name, weight in model.named_parameters() if weight.requires_grad}


def ten_steps(model, rows):
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer, losses = torch.optim.AdamW(weights, lr=1e-2), []
    for _ in range(10):
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        assert all(weight.grad is not None for weight in weights)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def answered(model, rows):
    return model.eval()(input_ids=rows).logits


@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_experts_are_trained_saved_loaded_and_merged(folder, tmp_path, method, checkpointed):
    torch.manual_seed(1)
    rows = torch.randint(3, 200, (2, 16))
    plan = planned(method, folder, gradient_checkpointing=checkpointed)
    model = build(plan, folder, device="cpu")
    losses = ten_steps(model, rows)
    assert losses[-1] < losses[0] - 0.2
    model.save_pretrained(tmp_path)
    assert set(PeftConfig.from_pretrained(tmp_path).target_parameters) == set(EXPERTS)

    with reaching_experts():
        again = PeftModel.from_pretrained(base_model(plan, folder, device="cpu"), tmp_path)
    torch.testing.assert_close(answered(again, rows), answered(model, rows))

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = answered(plain, rows)
    over_plain = PeftModel.from_pretrained(plain, tmp_path)
    expected = answered(over_plain, rows)
    torch.testing.assert_close(answered(over_plain.merge_and_unload(safe_merge=True), rows), expected)
    assert (expected - before).abs().max() > 0.1


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_table_of_layers_and_the_build_on_meta_have_the_weights_that_are_trained(folder, method):
    plan = planned(method, folder)
    model = build(plan, folder, device="cpu")
    assert trained(model) == trained(build(plan, model.config, device="meta"))
    counted = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert layers(base_model(plan, folder, device="cpu")).lora_params(plan) == counted


def test_without_an_adapter_the_experts_in_4_bit_are_left_as_they_were(folder):
    rows = torch.arange(3, 19)[None]
    plan = planned("qlora", folder)
    expected = answered(base_model(plan, folder, device="cpu"), rows)
    model = build(plan, folder, device="cpu")
    ten_steps(model, rows)
    with model.disable_adapter():
        torch.testing.assert_close(answered(model, rows), expected)


def test_experts_that_the_model_lacks_are_refused(folder):
    plan = FinetunePlan.for_method("qlora", folder, target_parameters=("experts.w1",))
    with pytest.raises(PlanError, match=r"target_parameters: must name stacked experts.*Nearest"):
        build(plan, folder, device="cpu")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        pytest.param({"lora_dropout": 0.1}, "lora_dropout", id="dropout"),
        pytest.param({"use_dora": True, "method": "dora"}, "use_dora", id="DoRA"),
        pytest.param({"init_lora_weights": "pissa"}, "init_lora_weights", id="PiSSA"),
        pytest.param({"method": "adalora"}, "target_parameters", id="AdaLoRA"),
    ],
)
def test_what_peft_cannot_do_on_stacked_experts_is_refused_before_a_run(values, field):
    method = values.pop("method", "lora")
    with pytest.raises(PlanError, match=field) as caught:
        FinetunePlan.for_method(method, "m", target_parameters=EXPERTS, **values)
    assert "experts" in str(caught.value)
    assert json.dumps(str(caught.value))
