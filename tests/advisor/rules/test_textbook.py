"""The textbook's rows and decisions at their bounds."""

import dataclasses

import pytest

from advisor.rules import classic, contradictions, textbook
from advisor.search import drafted
from specs import METHODS
from tests.advisor.prices import Priced
from tests.advisor.pricing import situation

RULES = {rule.field: rule for rule in classic.RULES}


def of_size(num_params, gpu="80 GiB", **values):
    asked = situation(gpu=gpu, **values)
    return dataclasses.replace(asked, model=dataclasses.replace(asked.model, num_params=num_params))


def decided(field, asked, method="lora"):
    return RULES[field].decide(asked, drafted(asked, method, classic.RULES))


# Halfway between two classes on a scale of factors: the square root of their product.
@pytest.mark.parametrize(
    ("num_params", "size"),
    [
        pytest.param(3_440_000_000, "1B-3B", id="sqrt(1.7 x 7) is 3.45"),
        pytest.param(3_460_000_000, "7B", id="above it"),
        pytest.param(9_530_000_000, "7B", id="sqrt(7 x 13) is 9.54"),
        pytest.param(9_550_000_000, "13B", id="above 9.54"),
        pytest.param(20_700_000_000, "13B", id="sqrt(13 x 33) is 20.71"),
        pytest.param(20_800_000_000, "33B", id="above 20.71"),
        pytest.param(46_300_000_000, "33B", id="sqrt(33 x 65) is 46.31"),
        pytest.param(46_400_000_000, "65B", id="above 46.31"),
    ],
)
def test_a_size_between_two_classes_belongs_to_the_nearer_factor(num_params, size):
    assert textbook.row(of_size(num_params)).size == size


@pytest.mark.parametrize(
    ("gpu", "num_gpus", "method"),
    [
        pytest.param("24 GiB", 1, "lora", id="the memory of the LoRA row"),
        pytest.param("23 GiB", 1, "qlora", id="less"),
        pytest.param("12 GiB", 2, "lora", id="two cards together"),
        pytest.param("8 GiB", 1, "qlora", id="under every row"),
    ],
)
def test_lora_needs_the_memory_of_its_row(gpu, num_gpus, method):
    assert textbook.row(of_size(7_000_000_000, gpu, num_gpus=num_gpus)).method == method


@pytest.mark.parametrize(
    ("values", "given"),
    [
        pytest.param({"gpu": "A100 SXM4 40 GB", "num_gpus": 8}, ["8x A100"], id="eight"),
        pytest.param({"gpu": "A100 SXM4 40 GB", "num_gpus": 7}, [], id="seven"),
        pytest.param({"gpu": "A100 SXM4 40 GB"}, ["1x A100"], id="one"),
        pytest.param({"gpu": "40 GiB"}, [], id="another card of its size"),
        pytest.param({"gpu": "RTX 4090"}, ["RTX 4090"], id="the card itself"),
        pytest.param({"gpu": "RTX 3090"}, [], id="another of 24 GB"),
        pytest.param({"gpu": "RTX 4090", "num_gpus": 2}, [], id="two"),
        pytest.param({"gpu": "8 GiB", "dataset_rows": 1}, ["1,000 examples"], id="one row"),
        pytest.param({"gpu": "8 GiB", "dataset_rows": 9_999}, ["1,000 examples"], id="nearer to 1,000"),
        pytest.param({"gpu": "8 GiB", "dataset_rows": 10_000}, ["100,000 examples"], id="nearer to 100,000"),
        pytest.param({"gpu": "8 GiB", "goal": "quality"}, ["best accuracy"], id="accuracy"),
        pytest.param({"gpu": "8 GiB", "goal": "memory"}, ["efficiency"], id="memory"),
    ],
)
def test_the_decision_matrix_speaks_of_the_case(values, given):
    assert [entry.given for entry in textbook.decisions(situation(**values))] == given


@pytest.mark.parametrize(
    ("values", "method"),
    [
        pytest.param({"gpu": "80 GiB"}, "lora", id="no row of the matrix: memory for LoRA"),
        pytest.param({"gpu": "80 GiB", "goal": "memory"}, "qlora", id="efficiency"),
        pytest.param({"gpu": "12 GiB", "goal": "quality"}, "lora", id="best accuracy"),
        pytest.param({"gpu": "RTX 4090"}, "qlora", id="an RTX 4090"),
        pytest.param({"gpu": "RTX 4090", "goal": "quality"}, "lora", id="accuracy overrules the card"),
        pytest.param({"gpu": "RTX 3090", "dataset_rows": 500}, "lora", id="1,000 examples leave the choice to memory"),
    ],
)
def test_the_decision_matrix_decides(values, method):
    asked = of_size(7_000_000_000, **values)
    assert classic.method(asked) == method
    said = classic.method_advice(asked).reason
    allowed = [entry.answer for entry in textbook.decisions(asked)]
    assert not allowed or any(METHODS[method].label in answer for answer in allowed)
    assert all(answer in said for answer in allowed)


@pytest.mark.parametrize(
    ("asked", "rank", "rate"),
    [
        pytest.param(of_size(13e9, dataset_rows=999), 16, 2e-4, id="small data: the low ends"),
        pytest.param(of_size(13e9, dataset_rows=1_000), 16, 2e-4, id="ordinary data"),
        pytest.param(of_size(13e9, dataset_rows=99_999), 16, 2e-4, id="the last ordinary data"),
        pytest.param(of_size(13e9, dataset_rows=100_000), 32, 8e-4, id="large data: the high ends"),
        pytest.param(of_size(13e9, task="domain"), 32, 8e-4, id="text is large data"),
        pytest.param(of_size(13e9, task="reasoning"), 32, 2e-4, id="a hard task: the rank alone"),
        pytest.param(of_size(7e9, "12 GiB", task="classification"), 4, 2e-4, id="an easy task"),
        pytest.param(of_size(7e9, "12 GiB", task="preference"), 8, 2e-4, id="preferences"),
        pytest.param(of_size(1e9, task="style"), 8, 2e-4, id="style"),
        pytest.param(of_size(65e9, "128 GiB", task="code"), 32, 2e-4, id="code"),
        pytest.param(of_size(65e9, "128 GiB", task="reasoning"), 32, 2e-4, id="reasoning"),
        pytest.param(of_size(65e9, "128 GiB"), 32, 2e-4, id="the row's least rank over the task's"),
        pytest.param(of_size(65e9, "48 GiB"), 16, 2e-4, id="the task's rank within the row"),
    ],
)
def test_rank_and_rate_move_within_the_row(asked, rank, rate):
    advice = decided("r", asked), decided("learning_rate", asked)
    assert [entry.value for entry in advice] == [rank, rate]
    assert [entry.range for entry in advice] == [textbook.row(asked).r, textbook.row(asked).learning_rate]


@pytest.mark.parametrize(
    ("rank", "alpha"),
    [
        pytest.param(8, 16, id="both low"),
        pytest.param(11, 22, id="three eighths of the way"),
        pytest.param(16, 32, id="both high"),
        pytest.param(4, 16, id="no lower"),
        pytest.param(32, 32, id="no higher"),
    ],
)
def test_alpha_moves_with_the_rank(rank, alpha):
    assert decided("lora_alpha", of_size(7e9, pins={"r": rank})).value == alpha


@pytest.mark.parametrize(
    ("asked", "targets"),
    [
        pytest.param(of_size(13e9), ("q_proj", "k_proj", "v_proj", "o_proj"), id="all attention from 13B on"),
        pytest.param(of_size(13e9, dataset_rows=999), ("q_proj", "v_proj"), id="q and v for small data"),
        pytest.param(
            of_size(7e9, dataset_rows=100_000), ("q_proj", "k_proj", "v_proj", "o_proj"), id="attention for large data"
        ),
        pytest.param(
            of_size(65e9, "128 GiB", dataset_rows=100_000),
            ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
            id="65B keeps its feed-forward layers",
        ),
    ],
)
def test_targets_follow_the_row_and_the_data(asked, targets):
    assert decided("target_modules", asked).value == targets


@pytest.mark.parametrize(
    ("asked", "method", "field", "value"),
    [
        pytest.param(of_size(2e9), "lora", "gradient_checkpointing", False, id="2B is kept"),
        pytest.param(of_size(2e9), "qlora", "gradient_checkpointing", True, id="unless its preparation turns it on"),
        pytest.param(of_size(7e9), "lora", "gradient_checkpointing", True, id="7B is recomputed"),
        pytest.param(of_size(7e9), "qlora", "optim", "paged_adamw_32bit", id="QLoRA pages"),
        pytest.param(of_size(7e9), "lora", "optim", "adamw_torch", id="LoRA does not"),
        pytest.param(of_size(7e9), "qlora", "prepare_kbit", True, id="quantized weights are prepared"),
        pytest.param(of_size(7e9), "lora", "prepare_kbit", False, id="plain ones are not"),
        pytest.param(of_size(7e9), "lora", "lora_dropout", 0.05, id="the row's dropout"),
        pytest.param(of_size(7e9, dataset_rows=999), "lora", "lora_dropout", 0.1, id="more for small data"),
        pytest.param(of_size(7e9, task="domain"), "lora", "lora_dropout", 0.0, id="none for large data"),
        pytest.param(of_size(7e9), "lora", "per_device_train_batch_size", 4, id="recipe: batch"),
        pytest.param(of_size(7e9), "lora", "gradient_accumulation_steps", 4, id="recipe: accumulation"),
        pytest.param(of_size(7e9), "lora", "num_train_epochs", 3.0, id="recipe: passes"),
        pytest.param(of_size(7e9), "lora", "max_length", 512, id="recipe: length"),
        pytest.param(of_size(7e9), "lora", "weight_decay", 0.01, id="recipe: decay"),
        pytest.param(of_size(7e9), "lora", "warmup_steps", 0.05, id="recipe: warm-up"),
    ],
)
def test_the_textbook_decides_so(asked, method, field, value):
    assert decided(field, asked, method).value == value


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        pytest.param("80 GiB", "row 7B with 24 GB or more: LoRA.", id="no upper end"),
        pytest.param("12 GiB", "row 7B with 12 to 16 GB: QLoRA (4-bit).", id="two ends"),
    ],
)
def test_the_method_is_said_with_its_row(gpu, said):
    assert said in classic.method_advice(of_size(7e9, gpu)).reason


@pytest.mark.parametrize(
    ("gpu", "num_gpus", "used", "said"),
    [
        pytest.param("12 GiB", 1, 1, [], id="the least of the table"),
        pytest.param("11 GiB", 1, 1, ["no row for 7B under 12 GB"], id="less"),
        pytest.param("6 GiB", 2, 1, [], id="two cards together"),
        pytest.param("12 GiB", 1, 10**12, ["does not fit: it uses 931.3 GiB"], id="too much"),
    ],
)
def test_memory_contradicts_the_table(gpu, num_gpus, used, said):
    asked = of_size(7e9, gpu, num_gpus=num_gpus)
    found = contradictions.disagreements(asked, drafted(asked, "qlora", classic.RULES), Priced(used))
    about_memory = [str(entry) for entry in found if "no row" in str(entry) or "does not fit" in str(entry)]
    assert len(about_memory) == len(said)
    assert all(words in text for words, text in zip(said, about_memory, strict=True))


def test_the_evidence_speaks_against_what_lies_outside_its_range_and_was_not_fixed():
    asked = of_size(7e9)
    plan = drafted(asked, "lora", classic.RULES)
    fields = {entry.field for entry in contradictions.disagreements(asked, plan, Priced(1))}
    assert "target_modules" in fields  # q and v alone
    assert "r" not in fields  # 16 lies within 8 to 64
    fixed = dataclasses.replace(asked, pins={"target_modules": ("q_proj", "v_proj")})
    assert "target_modules" not in {entry.field for entry in contradictions.disagreements(fixed, plan, Priced(1))}
