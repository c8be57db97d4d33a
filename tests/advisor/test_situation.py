"""What follows from a situation, worked out by hand."""

import dataclasses

import pytest

from advisor.rules.schedule import total_steps
from advisor.situation import billions, shape_params
from specs import GIB, FinetunePlan, ModelSpec, PlanError
from tests.advisor.pricing import processor, situation

SHAPES = {
    "model_type": "m",
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 5,
    "intermediate_size": 16,
    "vocab_size": 100,
}


# Attention of a layer is 8 x (2 x 4 x 5 + 2 x 2 x 5) = 480 weights, feed-forward 3 x 8 x 16 = 384.
@pytest.mark.parametrize(
    ("values", "params"),
    [
        pytest.param({}, 3 * (480 + 384) + 2 * 800, id="embeddings and head"),
        pytest.param({"tie_word_embeddings": True}, 3 * (480 + 384) + 800, id="tied"),
        pytest.param({"num_experts": 4}, 3 * (480 + 4 * 384) + 2 * 800, id="four experts"),
    ],
)
def test_shapes_make_so_many_parameters(values, params):
    assert shape_params(ModelSpec.from_config({**SHAPES, **values}, name="m")) == params


def test_counted_parameters_stand_before_those_of_the_shapes():
    asked = situation()
    assert asked.num_params == 8_030_261_248
    uncounted = dataclasses.replace(asked, model=dataclasses.replace(asked.model, num_params=None))
    assert uncounted.num_params == pytest.approx(8_030_261_248, rel=1e-3), "norms alone are left out"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        pytest.param(135_400_000, "135M", id="rounded to millions"),
        pytest.param(999_499_999, "999M", id="the last in millions"),
        pytest.param(999_500_000, "1.0B", id="instead of 1000M"),
        pytest.param(8_030_261_248, "8.0B", id="billions"),
    ],
)
def test_parameters_are_said_as_people_say_them(count, said):
    assert billions(count) == said


@pytest.mark.parametrize(
    ("free", "available"),
    [
        pytest.param(None, 25_249_710_080, id="all that a 4090 hands out"),
        pytest.param(10 * GIB, 10 * GIB, id="what is free"),
        pytest.param(100 * GIB, 25_249_710_080, id="never more than the card"),
    ],
)
def test_so_much_memory_is_available(free, available):
    assert situation(free_bytes=free).available_bytes == available


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"num_gpus": 100_000}, id="the most devices"),
        pytest.param({"dataset_rows": 1, "dataset_tokens": (1, 1, 1), "free_bytes": 1}, id="the least data and memory"),
    ],
)
def test_a_situation_at_its_bounds_is_taken(values):
    assert situation(**values).num_params


@pytest.mark.parametrize(
    ("values", "subject"),
    [
        pytest.param({"num_gpus": 100_001}, "num_gpus", id="too many devices"),
        pytest.param({"dataset_tokens": (0, 1, 1)}, "dataset_tokens", id="empty rows"),
        pytest.param({"dataset_tokens": (1, 3, 2)}, "dataset_tokens", id="a longest that is not"),
        pytest.param({"dataset_tokens": (1, 2)}, "dataset_tokens", id="two lengths"),
        pytest.param({"free_bytes": -1}, "free_bytes", id="less than nothing"),
    ],
)
def test_a_situation_beyond_its_bounds_is_refused(values, subject):
    with pytest.raises(PlanError) as refusal:
        situation(**values)
    assert refusal.value.subject == subject


def test_processes_on_one_processor_share_its_memory():
    alone = dataclasses.replace(situation(), gpu=processor())
    assert dataclasses.replace(alone, num_gpus=2).available_bytes == alone.available_bytes // 2


@pytest.mark.parametrize(
    ("rows", "values", "steps"),
    [
        pytest.param(1_000, {}, 63, id="1,000 / 16, the last batch smaller"),
        pytest.param(1_000, {"num_train_epochs": 2.5}, 158, id="two and a half passes"),
        pytest.param(1_000, {"eval_split": 0.1}, 57, id="900 rows to train on"),
        pytest.param(1_000, {"max_steps": 7}, 7, id="as many as asked"),
        pytest.param(None, {"max_steps": 1}, 1, id="without data too"),
        pytest.param(1, {"num_train_epochs": 0.01}, 1, id="one at least"),
        pytest.param(None, {}, None, id="unknown"),
    ],
)
def test_a_run_has_so_many_steps(rows, values, steps):
    plan = FinetunePlan.for_method("lora", "m", gradient_accumulation_steps=16, **values)
    assert total_steps(situation(dataset_rows=rows), plan) == steps
