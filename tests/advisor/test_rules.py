"""Contracts of every rule: it names its inputs and source, and its value is valid in a plan."""

import dataclasses

import pytest

from advisor import GOALS, TASKS
from advisor.advice import spelled
from advisor.rules import RULE_SETS, adapter, classic, contradictions, evidence, textbook
from advisor.search import drafted
from specs import METHODS, TASK_TYPES, FinetunePlan, PlanError, SpecError
from tests.advisor.pricing import price_of, situation

GIVEN = {"model_name_or_path", "num_gpus", "method"}
SITUATIONS = [
    pytest.param({"task": "classification", "data_task_type": "SEQ_CLS", "num_labels": 3}, id="texts with a class"),
    pytest.param({}, id="8B on a 4090"),
    pytest.param({"model": "openai-community/gpt2", "gpu": "Tesla T4", "dataset_rows": 300}, id="GPT-2, 300 rows, T4"),
    pytest.param({"model": "meta-llama/Llama-3.1-70B", "num_gpus": 8, "gpu": "H100 SXM5 80 GB"}, id="70B on 8 cards"),
    pytest.param(
        {"model": "Qwen/Qwen3-30B-A3B", "dataset_rows": 50_000, "dataset_tokens": (300, 900, 4000), "task": "code"},
        id="mixture of experts, code",
    ),
    pytest.param({"model": "google/gemma-2-9b", "goal": "memory", "task": "domain"}, id="Gemma 2, text, least memory"),
    pytest.param({"goal": "speed", "task": "preference", "dataset_rows": 90}, id="preferences, 90 rows, fast"),
]


def plans(asked, rules):
    methods = [name for name, entry in METHODS.items() if entry.peft_type in TASK_TYPES[asked.task_type].peft_types]
    return [(method, drafted(asked, method, RULE_SETS[rules])) for method in methods]


def test_evidence_has_a_rule_for_every_field_that_the_situation_does_not_give():
    assert {rule.field for rule in evidence.RULES} == {entry.name for entry in dataclasses.fields(FinetunePlan)} - GIVEN


@pytest.mark.parametrize("rules", list(RULE_SETS))
@pytest.mark.parametrize("values", SITUATIONS)
def test_every_reason_names_its_inputs_and_every_value_is_in_its_range(values, rules):
    asked = situation(**values)
    for _, plan in plans(asked, rules):
        for rule in RULE_SETS[rules]:
            if not rule.applies(plan):
                continue
            advice = rule.decide(asked, plan)
            assert advice.field == rule.field
            assert advice.accepts(advice.value), advice
            assert advice.reason.endswith(".")
            assert advice.source.title
            for name in rule.uses:
                phrase = spelled(getattr(plan, name)) if hasattr(plan, name) else asked.phrase(name)
                assert phrase.casefold() in advice.reason.casefold(), (name, advice.reason)


@pytest.mark.parametrize("rules", list(RULE_SETS))
@pytest.mark.parametrize("values", SITUATIONS)
def test_every_method_has_a_plan_by_the_rules(values, rules):
    for method, plan in plans(situation(**values), rules):
        assert plan.method == method


@pytest.mark.parametrize("rules", list(RULE_SETS))
def test_every_source_can_be_looked_up(rules):
    asked = situation()
    plan = drafted(asked, "qlora", RULE_SETS[rules])
    for rule in RULE_SETS[rules]:
        source = rule.decide(asked, plan).source
        assert source.url.startswith("https://") or source.title.startswith(("LoRAFit", "The textbook"))


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("goal", list(GOALS))
def test_every_task_and_goal_has_a_rank_and_a_rate(task, goal):
    plan = drafted(situation(task=task, goal=goal), "lora", evidence.RULES)
    assert 8 <= plan.r <= 256
    assert plan.lora_alpha / (plan.r**0.5 if plan.use_rslora else plan.r) == pytest.approx(8 / plan.r**0.5, rel=0.02)
    assert 1e-6 <= plan.learning_rate <= 5e-4


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        pytest.param({"model": "meta-llama/Llama-3.1-70B"}, "learning_rate", 1.3e-4, id="70B trains at 1.3e-4"),
        pytest.param({"model": "meta-llama/Llama-3.1-70B"}, "lora_dropout", 0.0, id="70B without dropout"),
        pytest.param({"task": "domain"}, "completion_only_loss", False, id="text is learned whole"),
        pytest.param(
            {"dataset_rows": 10, "dataset_tokens": (100, 700, 9000)}, "max_length", 704, id="95 % of rows fit whole"
        ),
        pytest.param({"model": "google/gemma-2-2b"}, "attn_implementation", "eager", id="Gemma 2 has no SDPA"),
        pytest.param({"model": "openai-community/gpt2"}, "max_length", 1024, id="GPT-2 ends at 1,024 tokens"),
        pytest.param({"goal": "speed"}, "lora_dropout", 0.0, id="speed goes without dropout"),
        pytest.param({"dataset_rows": 16}, "warmup_steps", 1.0, id="six steps warm up for one"),
    ],
)
def test_a_rule_decides_as_the_evidence_says(values, field, expected):
    assert getattr(drafted(situation(**values), "lora", evidence.RULES), field) == expected


def test_the_learning_rate_is_the_same_for_lora_and_qlora():
    asked = situation()
    assert drafted(asked, "lora", evidence.RULES).learning_rate == drafted(asked, "qlora", evidence.RULES).learning_rate


def test_rank_grows_with_data_that_outgrows_the_adapter():
    small = situation(model="HuggingFaceTB/SmolLM2-135M", dataset_rows=10_000, dataset_tokens=(200, 400, 900))
    large = dataclasses.replace(small, dataset_rows=2_000_000)
    ranks = [drafted(asked, "lora", evidence.RULES).r for asked in (small, large)]
    assert ranks == [16, 256]


@pytest.mark.parametrize("model", ["meta-llama/Llama-4-Scout-17B-16E-Instruct", "Qwen/Qwen3-30B-A3B"])
def test_neither_routers_nor_experts_are_adapted_and_the_reason_counts_what_is(model):
    known = situation(model=model)
    plan = drafted(known, "lora", evidence.RULES)
    advice = adapter.target_modules(known, plan)
    adapted = {path for path, _ in known.model.layers.adapted(plan)}
    assert not [path for path in adapted if "experts." in path.replace("shared_experts.", "") or "router" in path]
    assert f"{known.model.layers.lora_params(plan):,}" in advice.reason
    assert ", ".join(known.model.layers.names) in advice.reason


def test_experts_that_a_person_names_are_not_said_to_stay_frozen():
    asked = situation("Qwen/Qwen3-30B-A3B", pins={"target_parameters": ("experts.down_proj",)})
    reason = adapter.target_modules(asked, drafted(asked, "qlora", evidence.RULES)).reason
    assert "experts.down_proj of the 128 experts of each layer, as target_parameters asks" in reason
    assert "experts of each layer stay frozen" not in reason


def test_advice_for_a_model_with_unknown_modules_is_refused_and_asks_for_them():
    model = dataclasses.replace(situation().model, linear_modules=(), model_type="mystery")
    with pytest.raises(SpecError, match=r"linear modules: are unknown for model_type mystery.*Give target_modules"):
        dataclasses.replace(situation(), model=model)
    named = dataclasses.replace(situation(), model=model, pins={"target_modules": ("q_proj",)})
    assert drafted(named, "lora", evidence.RULES).target_modules == ("q_proj",)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        pytest.param({"task": "poetry"}, "task: must be one of classification", id="unknown task"),
        pytest.param({"goal": "luck"}, "goal: must be one of quality", id="unknown goal"),
        pytest.param({"dataset_rows": 0}, "dataset_rows: must be at least 1, got 0", id="no rows"),
        pytest.param(
            {"dataset_tokens": (9, 3, 4)}, "dataset_tokens: must be three rising lengths", id="lengths that fall"
        ),
        pytest.param({"free_bytes": 0}, "free_bytes: must be more than 0", id="a full card"),
        pytest.param({"num_gpus": 0}, "num_gpus: must lie between 1", id="no card"),
        pytest.param({"pins": {"rank": 8}}, "pins: rank: is not a field of a plan", id="unknown field"),
        pytest.param({"pins": {"num_gpus": 2}}, "pins: num_gpus: cannot be pinned", id="devices pinned"),
    ],
)
def test_an_impossible_situation_is_refused_with_one_sentence(values, sentence):
    with pytest.raises(PlanError) as caught:
        situation(**values)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_textbook_rows_are_the_nine_of_the_table():
    shown = [
        (row.size, row.memory_gib[0], row.method, row.r, row.lora_alpha, row.learning_rate) for row in textbook.TABLE
    ]
    assert shown == [
        ("1B-3B", 12, "lora", (8, 16), (16, 32), (2e-4, 2e-3)),
        ("7B", 24, "lora", (8, 16), (16, 32), (2e-4, 1e-3)),
        ("7B", 12, "qlora", (4, 8), (16, 16), (1e-4, 5e-4)),
        ("13B", 32, "lora", (16, 32), (32, 64), (2e-4, 8e-4)),
        ("13B", 16, "qlora", (8, 16), (16, 32), (1e-4, 3e-4)),
        ("33B", 64, "lora", (16, 32), (32, 64), (1e-4, 5e-4)),
        ("33B", 24, "qlora", (8, 16), (16, 32), (1e-4, 3e-4)),
        ("65B", 128, "lora", (32, 64), (64, 128), (1e-4, 2e-4)),
        ("65B", 40, "qlora", (8, 16), (32, 64), (5e-5, 2e-4)),
    ]


@pytest.mark.parametrize("row", textbook.TABLE, ids=lambda row: f"{row.size} {row.method}")
def test_classic_reproduces_its_row(row):
    model = {"1B-3B": "Llama-3.2-3B", "7B": "Llama-2-7b-hf", "13B": "Llama-2-13b-hf"}
    model |= {"33B": "huggyllama/llama-30b", "65B": "huggyllama/llama-65b"}
    asked = situation(model=model[row.size], gpu=f"{row.memory_gib[0]:g} GiB")
    plan = drafted(asked, classic.method(asked), RULE_SETS["classic"])
    assert textbook.row(asked) is row
    assert plan.method == row.method
    assert row.r[0] <= plan.r <= row.r[1]
    assert row.lora_alpha[0] <= plan.lora_alpha <= row.lora_alpha[1]
    assert row.lora_dropout[0] <= plan.lora_dropout <= row.lora_dropout[1]
    assert row.learning_rate[0] <= plan.learning_rate <= row.learning_rate[1]
    assert plan.target_modules == classic.named(row.targets, asked.modules)
    assert plan.bnb_4bit_use_double_quant == (row.double_quant if row.method == "qlora" else True)
    assert plan.effective_batch_size == 16


@pytest.mark.parametrize(
    ("model", "roles", "expected"),
    [
        pytest.param("Llama-3.1-8B", "qv", ("q_proj", "v_proj"), id="split"),
        pytest.param("microsoft/phi-4", "qv", ("qkv_proj",), id="fused qkv"),
        pytest.param("tiiuae/falcon-7b", "qkvo", ("query_key_value", "dense"), id="Falcon"),
        pytest.param("openai-community/gpt2", "qv", ("c_attn",), id="Conv1D"),
        pytest.param("facebook/opt-1.3b", "qv", ("v_proj", "q_proj"), id="OPT is not query_key_value"),
        pytest.param("microsoft/phi-2", "qkvom", ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"), id="with MLP"),
    ],
)
def test_the_textbooks_letters_become_the_models_names(model, roles, expected):
    assert classic.named(roles, situation(model=model).modules) == expected


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param({"gpu": "A100 SXM4 80 GB", "num_gpus": 8}, "8x A100 -> Full fine-tuning or LoRA", id="eight A100"),
        pytest.param({"gpu": "A100 SXM4 80 GB"}, "1x A100 -> LoRA", id="one A100"),
        pytest.param({"gpu": "RTX 4090"}, "RTX 4090 -> QLoRA (4-bit)", id="a 4090"),
        pytest.param({"dataset_rows": 1_000}, "1,000 examples -> LoRA or QLoRA (4-bit)", id="few rows"),
        pytest.param({"goal": "quality"}, "best accuracy -> Full fine-tuning or LoRA with r = 32", id="accuracy"),
        pytest.param({"goal": "memory"}, "efficiency -> QLoRA (4-bit)", id="efficiency"),
    ],
)
def test_classic_says_what_its_decision_matrix_says(values, said):
    assert said in classic.method_advice(situation(**values)).reason


def test_a_contradiction_between_the_textbooks_matrix_and_table_is_reported():
    asked = situation(model="Llama-2-7b-hf", gpu="RTX 4090")
    plan = drafted(asked, "lora", RULE_SETS["classic"])
    found = [str(caution) for caution in contradictions.disagreements(asked, plan, price_of(asked)(plan))]
    assert "The textbook's own decision matrix says QLoRA (4-bit) for RTX 4090, but its table says LoRA." in found
