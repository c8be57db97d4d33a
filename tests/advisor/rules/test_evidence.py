"""Each rule of the evidence at its bounds: what it decides on either side of one, and what else it accepts there."""

import dataclasses

import pytest

from advisor.rules import evidence
from advisor.search import drafted
from tests.advisor.pricing import processor, situation

SMALL = "HuggingFaceTB/SmolLM2-135M"
RULES = {rule.field: rule for rule in evidence.RULES}


def of_size(num_params):
    """A situation with an 8B model's shapes and another count."""
    asked = situation()
    return dataclasses.replace(asked, model=dataclasses.replace(asked.model, num_params=num_params))


def on_a_processor(**values):
    return dataclasses.replace(situation(model=SMALL, **values), gpu=processor())


def decided(field, asked, method="lora"):
    return RULES[field].decide(asked, drafted(asked, method, evidence.RULES))


def check(field, asked, expected, method="lora"):
    advice = decided(field, asked, method)
    assert (advice.value, advice.range) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({}, (16, (8, 64)), id="instructions"),
        pytest.param({"goal": "quality"}, (32, (8, 64)), id="doubled for quality"),
        pytest.param({"goal": "quality", "task": "preference"}, (32, (8, 32)), id="to the most at most"),
        pytest.param({"goal": "quality", "task": "style"}, (16, (8, 16)), id="style"),
        pytest.param({"goal": "quality", "task": "code"}, (128, (32, 256)), id="code"),
        pytest.param({"task": "reasoning"}, (32, (16, 256)), id="reasoning"),
        pytest.param({"task": "domain", "dataset_rows": 999}, (8, (4, 256)), id="under 1,000 rows"),
        pytest.param({"task": "domain", "dataset_rows": 1_000}, (64, (32, 256)), id="from 1,000 rows on"),
        pytest.param({"task": "style", "dataset_rows": 999}, (8, (8, 16)), id="already small"),
        pytest.param({"task": "classification"}, (8, (4, 16)), id="an easy task"),
    ],
)
def test_the_rank_follows_task_goal_and_rows(values, expected):
    check("r", situation(**values), expected)


# SmolLM2-135M: 30 layers of 2 x (576 + 576) + 2 x (576 + 192) + 3 x (576 + 1536) = 10,176; at rank 16 4,884,480.
@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        pytest.param(4_884_000, (16, (8, 64)), id="a parameter for each token is enough"),
        pytest.param(4_885_000, (32, (8, 64)), id="more tokens double the rank"),
        pytest.param(20_000_000, (128, (8, 128)), id="which widens the range"),
        pytest.param(100_000_000_000, (256, (8, 256)), id="up to 256"),
    ],
)
def test_the_rank_gives_each_token_a_parameter(tokens, expected):
    asked = situation(model=SMALL, dataset_rows=1_000, dataset_tokens=(tokens // 1_000,) * 3)
    check("r", asked, expected)


@pytest.mark.parametrize(
    ("size", "rows", "expected"),
    [
        pytest.param(4_500_000_000, 50_000, (64, (8, 128)), id="a small model with much data"),
        pytest.param(4_500_000_000, 49_999, (16, (8, 64)), id="with less"),
        pytest.param(4_500_000_001, 50_000, (16, (8, 64)), id="a larger model"),
    ],
)
def test_a_small_model_takes_a_larger_rank_for_much_data(size, rows, expected):
    asked = of_size(size)
    check("r", dataclasses.replace(asked, dataset_rows=rows), expected)


@pytest.mark.parametrize(
    ("model", "r", "params"),
    [
        pytest.param(SMALL, 16, 4_884_480, id="as PEFT counts a dense model"),
        # Linear layers of attention alone: 48 x (2 x (2048 + 4096) + 2 x (2048 + 512)) = 835,584.
        pytest.param("Qwen/Qwen3-30B-A3B", 2, 1_671_168, id="fused experts have no adapter"),
    ],
)
def test_so_many_parameters_has_an_adapter(model, r, params):
    assert situation(model=model).lora_params(r) == params


@pytest.mark.parametrize(
    ("values", "method", "scaled", "alpha"),
    [
        pytest.param({}, "lora", (False, (False, True)), (32, (16, 64)), id="scale 2 at rank 16"),
        pytest.param({"pins": {"r": 64}}, "lora", (False, (False, True)), (64, (32, 128)), id="scale 1 at rank 64"),
        pytest.param({"pins": {"r": 128}}, "lora", (False, (False, True)), (91, (45, 182)), id="8 x sqrt(128) = 90.5"),
        pytest.param({"pins": {"r": 128, "use_rslora": True}}, "lora", (False, (False, True)), (8, (4, 16)), id="8"),
        pytest.param({"pins": {"r": 1}}, "rslora", (True, (True,)), (8, (4, 16)), id="rank 1"),
    ],
)
def test_the_scale_of_the_update_falls_with_the_root_of_the_rank(values, method, scaled, alpha):
    asked = situation(**values)
    check("use_rslora", asked, scaled, method)
    check("lora_alpha", asked, alpha, method)


@pytest.mark.parametrize("r", [4, 16, 64, 128, 256])
def test_both_ways_to_write_the_scale_give_one_number(r):
    plain = decided("lora_alpha", situation(pins={"r": r})).value / r
    stabilized = decided("lora_alpha", situation(pins={"r": r}), "rslora").value / r**0.5
    assert plain == pytest.approx(stabilized, rel=0.01)
    assert stabilized == pytest.approx(2 * (16 / r) ** 0.5)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        pytest.param(situation(), "fused kernels", id="8B"),
        pytest.param(of_size(70_000_000_000), "fused kernels", id="70B"),
        pytest.param(situation(dataset_rows=999), "try 0.1 if the held-out loss rises", id="few rows"),
    ],
)
def test_there_is_no_dropout(asked, said):
    check("lora_dropout", asked, (0.0, (0.0, 0.1)))
    assert said in decided("lora_dropout", asked).reason


@pytest.mark.parametrize(
    ("asked", "batch", "accumulation"),
    [
        pytest.param(situation(), (8, (1, 8)), (2, (1, 4)), id="16 sequences"),
        pytest.param(situation(goal="memory"), (1, (1, 8)), (16, (8, 32)), id="one at a time for memory"),
        pytest.param(situation(num_gpus=8), (2, (1, 8)), (1, (1, 2)), id="shared by eight"),
        pytest.param(situation(num_gpus=3), (5, (1, 8)), (2, (1, 3)), id="shared by three, rounded up"),
        pytest.param(situation(num_gpus=64), (1, (1, 8)), (1, (1, 1)), id="more devices than sequences"),
        pytest.param(situation(dataset_rows=999), (8, (1, 8)), (1, (1, 2)), id="8 for few rows"),
        pytest.param(situation(dataset_rows=1_000), (8, (1, 8)), (2, (1, 4)), id="16 from 1,000 rows on"),
        pytest.param(on_a_processor(), (2, (1, 2)), (1, (1, 2)), id="2 on a CPU"),
    ],
)
def test_the_batch_is_made_of_what_the_devices_hold_at_once(asked, batch, accumulation):
    check("per_device_train_batch_size", asked, batch)
    check("gradient_accumulation_steps", asked, accumulation)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(situation(), (1024, (256, 2048)), id="unknown data"),
        pytest.param(situation(dataset_tokens=(10, 64, 65)), (64, (64, 128)), id="rounded up to 64"),
        pytest.param(situation(dataset_tokens=(300, 900, 4000)), (960, (256, 4032)), id="up to the longest"),
        pytest.param(situation(model="openai-community/gpt2"), (1024, (256, 1024)), id="what the model was made for"),
        pytest.param(on_a_processor(), (256, (256, 512)), id="short on a CPU"),
        pytest.param(on_a_processor(dataset_tokens=(300, 512, 513)), (512, (256, 576)), id="512 on a CPU"),
        pytest.param(on_a_processor(dataset_tokens=(300, 513, 600)), (512, (256, 640)), id="cut on a CPU"),
    ],
)
def test_the_length_covers_the_rows(asked, expected):
    check("max_length", asked, expected)


def test_a_length_at_the_models_limit_says_so():
    said = "was made for 1,024 tokens"
    assert said in decided("max_length", situation(model="openai-community/gpt2")).reason
    assert "was made for" not in decided("max_length", situation()).reason


def test_a_length_cut_for_a_processor_says_so():
    advice = decided("max_length", on_a_processor(dataset_tokens=(300, 513, 600)))
    assert "here at 512 since a CPU is slow; 5 to 50% of the rows are truncated" in advice.reason


FLASH = {"attn_implementation": "flash_attention_2"}


@pytest.mark.parametrize(
    ("field", "values", "expected"),
    [
        pytest.param("packing", {"task": "domain", "pins": FLASH}, (True, (False, True)), id="text that is kept apart"),
        pytest.param("packing", {"pins": FLASH}, (False, (False, True)), id="chats one by one"),
        pytest.param("packing", {"task": "domain"}, (False, (False,)), id="text that would mix"),
        pytest.param("completion_only_loss", {}, (True, (True, False)), id="answers alone"),
        pytest.param("gradient_checkpointing", {}, (True, (True, False)), id="recompute"),
        pytest.param("gradient_checkpointing", {"goal": "speed"}, (False, (True, False)), id="keep for speed"),
        pytest.param("attn_implementation", {}, ("sdpa", ("sdpa", "flash_attention_2")), id="fused attention"),
        pytest.param("sharding", {}, ("none", ("none",)), id="one device"),
        pytest.param("sharding", {"num_gpus": 2}, ("ddp", ("ddp", "zero3", "fsdp")), id="two devices"),
        pytest.param("use_reentrant", {"num_gpus": 2}, (False, (False,)), id="TRL's checkpointing"),
        pytest.param(
            "use_reentrant", {"num_gpus": 2, "pins": {"sharding": "zero3"}}, (True, (True,)), id="ZeRO-3's"
        ),
        pytest.param("optim", {}, ("adamw_torch_fused", ("adamw_torch_fused", "adamw_torch", "paged_adamw_8bit",
                                                         "paged_adamw_32bit", "adamw_8bit")), id="exact states"),
        pytest.param("weight_decay", {}, (0.0, (0.0, 0.01)), id="an adapter decays little"),
        pytest.param("max_grad_norm", {}, (1.0, (0.3, 1.0)), id="clipped at 1, QLoRA at 0.3"),
        pytest.param("loraplus_lr_ratio", {}, (None, (None, 16.0)), id="one rate, LoRA+ 16"),
        pytest.param("seed", {}, (42, (0, 4_294_967_295)), id="any seed of 32 bits"),
        pytest.param("bf16", {"pins": {"fp16": True}}, (False, (False,)), id="fp16 was chosen"),
        pytest.param("fp16", {"gpu": "Tesla T4"}, (True, (False, True)), id="scaled where bfloat16 is missing"),
        pytest.param("dtype", {"gpu": "Tesla T4"}, ("float16", ("float16", "float32")), id="or in float32"),
        pytest.param("dtype", {}, ("bfloat16", ("bfloat16",)), id="bfloat16 alone"),
        pytest.param("prepare_kbit", {}, (False, (False,)), id="TRL dropped it"),
        pytest.param("torch_empty_cache_steps", {}, (None, (1, 1)), id="the cache is kept"),
        pytest.param("early_stopping_patience", {}, (None, (1, 10)), id="the schedule ends the run"),
        pytest.param("load_best_model_at_end", {"dataset_rows": 1_000}, (True, (True, False)), id="evaluated"),
        pytest.param("load_best_model_at_end", {"dataset_rows": 99}, (False, (False,)), id="never evaluated"),
        pytest.param("train_sampling_strategy", {"task": "preference"}, ("random", ("random", "group_by_length")),
                     id="pairs as they come"),
    ],
)  # fmt: skip
def test_a_choice_follows_its_inputs(field, values, expected):
    check(field, situation(**values), expected)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        pytest.param("dtype", ("float32", ("float32", "bfloat16")), id="number format"),
        pytest.param("bf16", (False, (False,)), id="no autocast"),
        pytest.param("fp16", (False, (False,)), id="nor scaling"),
        pytest.param("gradient_checkpointing", (False, (True, False)), id="RAM is there"),
        pytest.param("optim", ("adamw_torch_fused", ("adamw_torch_fused", "adamw_torch")), id="no bitsandbytes"),
        pytest.param("eval_split", (0.0, (0.0, 0.1)), id="no time to evaluate"),
        pytest.param("num_train_epochs", (1.0, (1.0, 3.0)), id="one pass"),
    ],
)
def test_a_processor_gets_what_it_can_do(field, expected):
    check(field, on_a_processor(dataset_rows=5_000), expected)


@pytest.mark.parametrize(
    ("asked", "method", "expected"),
    [
        pytest.param(of_size(299_999_999), "lora", (1e-3, (3e-4, 2e-3)), id="under 0.3B"),
        # The root of 16 / 128 is 0.354: a third of the sweep's rate at the usual batch.
        pytest.param(of_size(300_000_000), "lora", (3.4e-4, (1e-4, 9e-4)), id="small: 9.7e-4 at batch 128"),
        pytest.param(of_size(4_500_000_001), "lora", (1.3e-4, (5e-5, 3e-4)), id="larger: 3.6e-4"),
        pytest.param(situation(model="Qwen/Qwen3-8B"), "lora", (2.8e-4, (1e-4, 7e-4)), id="Qwen3: 7.9e-4"),
        pytest.param(situation(model="Qwen/Qwen3-30B-A3B"), "lora", (1.8e-4, (7e-5, 5e-4)), id="its mixture: 5.2e-4"),
        pytest.param(situation(model="mistralai/Mistral-7B-v0.3"), "lora", (1.4e-4, (6e-5, 4e-4)), id="others: 4e-4"),
        pytest.param(
            situation(pins={"gradient_accumulation_steps": 16}), "lora", (3.6e-4, (1e-4, 9e-4)), id="as swept"
        ),
        pytest.param(of_size(15_999_999_999), "full", (2e-5, (5e-6, 5e-5)), id="all weights, a tenth"),
        pytest.param(of_size(16_000_000_000), "full", (1e-5, (5e-6, 5e-5)), id="all weights of a large model"),
        pytest.param(situation(task="domain"), "full", (1e-5, (5e-6, 5e-5)), id="all weights on text"),
        pytest.param(situation(task="domain"), "lora", (5e-5, (2e-5, 2e-4)), id="text"),
        pytest.param(situation(task="preference"), "lora", (5e-6, (1e-6, 2e-5)), id="DPO"),
        pytest.param(situation(pins={"max_steps": 99}), "lora", (1.9e-4, (5e-5, 3e-4)), id="half as much again"),
        pytest.param(situation(pins={"max_steps": 100}), "lora", (1.3e-4, (5e-5, 3e-4)), id="100 steps are enough"),
        pytest.param(situation(model=SMALL, pins={"max_steps": 9}), "lora", (1e-3, (3e-4, 2e-3)), id="fast already"),
        pytest.param(situation(task="domain", pins={"max_steps": 9}), "lora", (5e-5, (2e-5, 2e-4)), id="few, text"),
        pytest.param(situation(task="preference", pins={"max_steps": 9}), "lora", (5e-6, (1e-6, 2e-5)), id="few, DPO"),
    ],
)
def test_the_rate_follows_family_size_batch_task_and_steps(asked, method, expected):
    check("learning_rate", asked, expected, method)


@pytest.mark.parametrize(
    ("steps", "warmup", "logging", "saving"),
    [
        pytest.param(3, (1.0, (0.0, 100.0)), 1, 10, id="at least one step warms up"),
        pytest.param(16, (4.0, (0.0, 100.0)), 1, 10, id="a quarter at most"),
        pytest.param(100, (5.0, (0.0, 100.0)), 1, 10, id="at least five"),
        pytest.param(1_000, (30.0, (0.0, 100.0)), 1, 100, id="3%"),
        pytest.param(2_000, (60.0, (0.0, 100.0)), 1, 200, id="the last run logged step by step"),
        pytest.param(2_001, (60.0, (0.0, 100.0)), 10, 200, id="every tenth step"),
        pytest.param(9_000, (100.0, (0.0, 100.0)), 10, 500, id="at most 100 warm up, 500 between checkpoints"),
    ],
)
def test_warm_up_logging_and_checkpoints_follow_the_steps(steps, warmup, logging, saving):
    asked = situation(pins={"max_steps": steps})
    check("warmup_steps", asked, warmup)
    check("logging_steps", asked, (logging, (1, 10)))
    check("save_steps", asked, (saving, (10, 500)))


def test_warm_up_is_a_share_and_checkpoints_are_a_hundred_steps_apart_while_the_data_is_unknown():
    check("warmup_steps", situation(), (0.03, (0.0, 0.1)))
    check("save_steps", situation(), (100, (10, 500)))


@pytest.mark.parametrize(
    ("values", "epochs", "held_out"),
    [
        pytest.param({}, (2.0, (1.0, 3.0)), 0.0, id="unknown data"),
        pytest.param({"dataset_rows": 99}, (3.0, (1.0, 5.0)), 0.0, id="too few to hold out"),
        pytest.param({"dataset_rows": 100}, (3.0, (1.0, 5.0)), 0.1, id="10 rows held out"),
        pytest.param({"dataset_rows": 999}, (3.0, (1.0, 5.0)), 0.1, id="a tenth of few"),
        pytest.param({"dataset_rows": 1_000}, (3.0, (1.0, 5.0)), 0.05, id="50 rows held out"),
        pytest.param({"dataset_rows": 4_999}, (3.0, (1.0, 5.0)), 0.05, id="three passes"),
        pytest.param({"dataset_rows": 5_000}, (2.0, (1.0, 3.0)), 0.05, id="two passes"),
        pytest.param({"dataset_rows": 20_000}, (2.0, (1.0, 3.0)), 0.05, id="still two"),
        pytest.param({"dataset_rows": 20_001}, (1.0, (1.0, 2.0)), 0.05, id="one pass"),
        pytest.param({"dataset_rows": 40_000}, (1.0, (1.0, 2.0)), 0.025, id="1,000 rows at most"),
        pytest.param({"dataset_rows": 900, "task": "domain"}, (1.0, (1.0, 2.0)), 0.1, id="text once"),
    ],
)
def test_passes_and_evaluation_follow_the_rows(values, epochs, held_out):
    check("num_train_epochs", situation(**values), epochs)
    check("eval_split", situation(**values), (held_out, (0.0, 0.1)))


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        pytest.param({}, "init_r", (24, (17, 32)), id="1.5 times the final rank, as in the paper"),
        pytest.param(
            {"pins": {"target_r": 3_000, "init_r": 4_000}}, "init_r", (4096, (3_001, 6_000)), id="PEFT's largest"
        ),
        pytest.param({}, "target_r", (16, (1, 23)), id="LoRA's rank remains"),
        pytest.param({"pins": {"init_r": 10}}, "target_r", (9, (1, 9)), id="fewer than at the start"),
        pytest.param({}, "tinit", (0, (0, 1)), id="unknown data"),
        # 95% of 10,000 rows in batches of 16 are 594 steps; two passes 1,188, of which a tenth and a half.
        pytest.param({"dataset_rows": 10_000}, "tinit", (118, (0, 118)), id="a tenth of the run"),
        pytest.param({"dataset_rows": 10_000}, "tfinal", (594, (0, 594)), id="half of the run"),
        pytest.param({}, "deltaT", (1, (1, 100)), id="ranks move every step"),
        pytest.param({"pins": {"max_steps": 1_999}}, "deltaT", (1, (1, 100)), id="a thousand moves"),
        pytest.param({"pins": {"max_steps": 2_000}}, "deltaT", (2, (1, 100)), id="every second step"),
    ],
)
def test_adalora_takes_ranks_away_as_in_the_paper(values, field, expected):
    check(field, situation(**values), expected, "adalora")


@pytest.mark.parametrize(
    ("method", "field", "expected"),
    [
        pytest.param("prompt-tuning", "num_virtual_tokens", (20, (10, 200)), id="embeddings"),
        pytest.param("prefix-tuning", "num_virtual_tokens", (50, (10, 200)), id="a prefix"),
        pytest.param("ia3", "learning_rate", (5e-3, (1e-3, 1e-2)), id="IA3's rate"),
        pytest.param("prompt-tuning", "learning_rate", (1e-2, (1e-3, 3e-2)), id="the rate of embeddings"),
        pytest.param("prefix-tuning", "learning_rate", (5e-3, (1e-3, 1e-2)), id="the rate of a prefix"),
        pytest.param("full", "weight_decay", (0.01, (0.0, 0.1)), id="AdamW's decay on all weights"),
        pytest.param("dora", "use_dora", (True, (True,)), id="DoRA as chosen"),
        pytest.param("lora", "use_dora", (False, (False,)), id="no DoRA by itself"),
        pytest.param("qlora", "load_in_4bit", (True, (True,)), id="4 bit"),
        pytest.param("qlora", "load_in_8bit", (False, (False,)), id="and not 8"),
        pytest.param("ia3", "load_in_4bit", (False, (False, True)), id="4 bit if wished"),
    ],
)
def test_a_methods_own_values_and_ranges(method, field, expected):
    check(field, situation(), expected, method)


@pytest.mark.parametrize(
    ("field", "model", "said"),
    [
        # 8,030,261,248 x 0.373 / 8 bytes, and 70,553,706,496.
        pytest.param("bnb_4bit_use_double_quant", "meta-llama/Llama-3.1-8B", ", 0.3 GiB on", id="8B"),
        pytest.param("bnb_4bit_use_double_quant", "meta-llama/Llama-3.1-70B", ", 3.1 GiB on", id="70B"),
        # Two more bytes for 2 x 128,256 x 4,096 weights, and for 256,000 x 2,304 tied ones.
        pytest.param("prepare_kbit", "meta-llama/Llama-3.1-8B", " 2.0 GiB more", id="embeddings and head"),
        pytest.param("prepare_kbit", "google/gemma-2-2b", " 1.1 GiB more", id="tied embeddings"),
    ],
)
def test_a_reason_names_the_bytes(field, model, said):
    assert said in decided(field, situation(model=model), "qlora").reason
