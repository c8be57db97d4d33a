import bitsandbytes as bnb
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, Trainer
from trl import SFTConfig, SFTTrainer

from specs import METHODS, FinetunePlan, PlanError, SpecError
from specs.errors import LONGEST
from trainer.model import build as building
from trainer.model.build import build, kept_adapter_dtype
from trainer.model.layers import layers


def tensors(model):
    """Every parameter with its shape, dtype, class and whether it is trained; and the constants of quantized layers."""
    found = {
        name: (tuple(parameter.shape), parameter.dtype, parameter.requires_grad, type(parameter).__name__)
        for name, parameter in model.named_parameters()
    }
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            state = module.weight.quant_state
            nested = state.nested and (state.state2.absmax.shape, state.state2.code.shape, state.state2.blocksize)
            found[name] = (
                state.absmax.shape,
                state.absmax.dtype,
                nested,
                state.shape,
                state.dtype,
                module.compute_dtype,
            )
        elif isinstance(module, bnb.nn.Linear8bitLt):
            found[name] = (module.weight.SCB.shape, module.weight.SCB.dtype, module.state.threshold)
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("method", "values"),
    [
        pytest.param("full", {}, id="full"),
        pytest.param("lora", {}, id="lora"),
        pytest.param("lora", {"init_lora_weights": "pissa"}, id="pissa, which reads the weights on a device"),
        pytest.param("qlora", {}, id="nf4 with double quantization"),
        pytest.param("qlora", {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False}, id="fp4 without"),
        pytest.param("qlora", {"bnb_4bit_quant_storage": "bfloat16"}, id="weights packed in bfloat16"),
        pytest.param("qlora", {"prepare_kbit": True, "gradient_checkpointing": True}, id="prepared for kbit"),
        pytest.param("qlora", {"use_dora": True}, id="DoRA over 4 bit"),
        pytest.param("lora-8bit", {}, id="8 bit"),
        pytest.param("dora", {"adapter_dtype": "bfloat16"}, id="DoRA keeps its magnitudes in 32 bit"),
        pytest.param("lora", {"rank_pattern": {r"layers\.1\..*q_proj": 9, "up_proj": 2}}, id="ranks by layer"),
        pytest.param("adalora", {}, id="AdaLoRA"),
        pytest.param("adalora", {"load_in_4bit": True}, id="AdaLoRA over 4 bit"),
        pytest.param("adalora", {"load_in_8bit": True, "adapter_dtype": "bfloat16"}, id="AdaLoRA over 8 bit"),
        pytest.param("ia3", {}, id="IA3"),
        pytest.param("ia3", {"load_in_4bit": True, "target_modules": ("k_proj", "down_proj")}, id="IA3 over 4 bit"),
        pytest.param("ia3", {"load_in_8bit": True}, id="IA3 over 8 bit"),
        pytest.param(
            "prompt-tuning", {"prompt_tuning_init": "SAMPLE_VOCAB"}, id="virtual tokens out of the vocabulary"
        ),
        pytest.param("prompt-tuning", {"load_in_8bit": True, "adapter_dtype": "bfloat16"}, id="virtual tokens"),
        pytest.param("prefix-tuning", {"load_in_4bit": True}, id="a prefix over 4 bit"),
    ],
)
def test_meta_has_the_tensors_that_real_weights_give(tiny_model, method, values, dtype):
    plan = FinetunePlan.for_method(method, "tiny", r=4, dtype=dtype, **values)
    real = build(plan, tiny_model, device="cpu")
    traced = build(plan, building.model_config(tiny_model), device="meta")
    assert {parameter.device.type for parameter in traced.parameters()} == {"meta"}
    assert tensors(real) == tensors(traced)


@pytest.mark.parametrize(
    "model_type", ["gpt2", "mixtral", "qwen3_moe", "gemma2", "gpt_neox", "bloom", "opt", "phi3", "falcon"]
)
def test_architectures_of_all_kinds_are_built_on_meta(model_type):
    plan = FinetunePlan.for_method("qlora", "any")
    model = build(plan, {"model_type": model_type, "num_hidden_layers": 2, "n_layer": 2}, device="meta")
    assert any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_transposed_layers_get_an_adapter_or_a_refusal_with_the_methods_that_fit(method):
    adapter, gpt2 = METHODS[method].adapter, {"model_type": "gpt2", "n_layer": 1, "n_embd": 48, "n_head": 4}
    plan = FinetunePlan.for_method(method, "any")
    if adapter is None or adapter.transposes or adapter.on != "linear" or plan.load_in_4bit or plan.load_in_8bit:
        assert any(weight.requires_grad for weight in build(plan, gpt2, device="meta").parameters())
        return
    with pytest.raises(PlanError, match=r"weights transposed \(Conv1D\).*Choose one of full, lora, .*vera") as refused:
        build(plan, gpt2, device="meta")
    assert len(str(refused.value)) < LONGEST


def test_the_adapter_dtype_holds_through_trl(tiny_model, plan_of, tmp_path):
    plan = plan_of(adapter_dtype="float32")
    model = build(plan, tiny_model, device="cpu")
    before = {
        name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    rows = [{"input_ids": [1, 5, 6, 2], "labels": [-100, 5, 6, 2]}] * 2
    with kept_adapter_dtype(model):
        trainer = sft_trainer(model, tiny_model, tmp_path, rows)
    after = {name: parameter for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert {parameter.dtype for parameter in after.values()} == {torch.float32}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_trl_alone_casts_the_adapter_to_bfloat16(tiny_model, plan_of, tmp_path):
    model = build(plan_of(adapter_dtype="float32"), tiny_model, device="cpu")
    trainer = sft_trainer(model, tiny_model, tmp_path, [{"input_ids": [1, 5, 2], "labels": [-100, 5, 2]}] * 2)
    trained = {parameter.dtype for parameter in trainer.model.parameters() if parameter.requires_grad}
    assert trained == {torch.bfloat16}, "TRL no longer casts: kept_adapter_dtype has nothing left to do"


def sft_trainer(model, folder, output, rows) -> Trainer:
    return SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(output), report_to="none", use_cpu=True, bf16=False, activation_checkpointing=False
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_adapters_have_the_dtype_of_the_plan(tiny_model, plan_of, dtype):
    model = build(plan_of(adapter_dtype=dtype), tiny_model, device="cpu")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {getattr(torch, dtype)}


def test_the_output_head_stays_as_it_is(tiny_model, plan_of):
    model = build(plan_of(), tiny_model, device="cpu").get_base_model()
    assert type(model.lm_head) is torch.nn.Linear
    assert model.lm_head.weight.dtype == torch.float32
    assert layers(building.base_model(plan_of(), tiny_model, device="cpu")).names == (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_is_what_the_plan_says(tiny_model, plan_of, reentrant):
    plan = plan_of(gradient_checkpointing=True, use_reentrant=reentrant)
    model = build(plan, tiny_model, device="cpu")
    assert model.get_base_model().is_activation_checkpointing
    layer = model.get_base_model().model.layers[0]
    assert layer._gradient_checkpointing_func.keywords["use_reentrant"] is reentrant


def test_a_module_that_does_not_exist_is_named_with_the_nearest(tiny_model, plan_of):
    with pytest.raises(PlanError, match=r"target_modules: .*got q_prj\. Nearest: q_proj"):
        build(plan_of(target_modules=("q_prj", "v_proj")), tiny_model, device="cpu")


@pytest.mark.parametrize(
    "source",
    [
        pytest.param({"model_type": "no_such_model"}, id="unknown kind"),
        pytest.param({"hidden_size": 64}, id="no kind"),
        pytest.param({}, id="nothing"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(source, plan_of):
    with pytest.raises(SpecError, match="model_type: must be a model_type that transformers has"):
        build(plan_of(), source, device="meta")


def test_a_folder_without_weights_is_refused_in_a_sentence(tmp_path, tiny_config, plan_of):
    tiny_config.save_pretrained(tmp_path)
    with pytest.raises(SpecError, match="cannot be loaded"):
        build(plan_of(), tmp_path, device="cpu")


def test_flash_attention_on_a_cpu_is_refused_with_a_way_out(tiny_model, plan_of):
    with pytest.raises(PlanError, match="Choose sdpa"):
        build(plan_of(attn_implementation="flash_attention_2"), tiny_model, device="cpu")


def test_an_evaluation_in_between_does_not_change_the_gradients(tiny_model, plan_of):
    torch.manual_seed(0)
    model = build(plan_of(), tiny_model, device="cpu")
    ids = torch.arange(16).reshape(2, 8)

    def gradients():
        model.zero_grad()
        model.train()(input_ids=ids, labels=ids).loss.backward()
        return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}

    before = gradients()
    with torch.no_grad():
        model.eval()(input_ids=ids[:1, :1])
        model(input_ids=ids)
    after = gradients()
    assert any(gradient.abs().max() > 0 for gradient in before.values())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
