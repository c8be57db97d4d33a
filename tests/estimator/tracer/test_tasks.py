"""The step of tasks other than text generation: counts against really built models, and no logits of a vocabulary."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from estimator.tape.conditions import Conditions
from estimator.tape.recipe import Recipe, recipe
from estimator.tracer.trace import trace
from specs import FinetunePlan, ModelSpec
from tests.trainer.classified import ENCODERS
from trainer.model.build import build

LLAMA = {
    "model_type": "llama",
    "vocab_size": 50_000,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": 4096,
}
_LONGER = {"num_hidden_layers": 4, "max_position_embeddings": 512}
CONFIGS = {
    "llama": LLAMA,
    **{
        name: {**{key: value for key, value in found.to_dict().items() if key != "layer_types"}, **_LONGER}
        for name, found in ENCODERS.items()
    },
}


def plan_of(method="lora", **values):
    settings = {"task_type": "SEQ_CLS", "num_labels": 3, "max_length": 32, "r": 4, "per_device_train_batch_size": 2}
    return FinetunePlan.for_method(method, "m", **{**settings, **values})


def traced(name, plan):
    model = ModelSpec.from_config(CONFIGS[name], name=name)
    return trace(recipe(model, plan, Conditions()), lambda _: None)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_weights_and_trained_weights_are_those_of_the_built_model(name, method):
    plan = plan_of(method, dtype="float32" if method == "full" else "bfloat16")
    tape = traced(name, plan)
    built = build(plan, {**CONFIGS[name], "pad_token_id": 0}, device="meta")
    trained = sum(weight.numel() for weight in built.parameters() if weight.requires_grad)
    assert sum(entry.elements(plan.r) * entry.count for entry in tape.residents if entry.trainable) == trained
    with torch.device("meta"):
        config = {**CONFIGS[name], "pad_token_id": 0, "num_labels": 3}
        kind = type(ENCODERS[name]) if name in ENCODERS else None
        if kind is not None:
            values = {key: value for key, value in config.items() if key != "model_type"}
            whole = AutoModelForSequenceClassification.from_config(kind(**values))
            assert tape.num_params == sum(weight.numel() for weight in whole.parameters())


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_logits_of_classes_are_tiny(name):
    classes, words = traced(name, plan_of()), None
    if name == "llama":
        words = traced(name, plan_of(task_type="CAUSAL_LM", loss="full"))
        assert logits(words) > 100 * logits(classes)
    assert logits(classes) < 500_000


def logits(tape):
    program = tape.program
    by_size = tape.bytes_by_size(2, 32, 4)
    deltas = program.sign * by_size[program.size]
    return int(deltas[(program.component == 6) & (deltas > 0)].sum())


def test_a_recipe_of_classes_is_read_back_from_json():
    made = recipe(ModelSpec.from_config(LLAMA, name="m"), plan_of(num_labels=7), Conditions())
    again = Recipe.from_json(made.to_json())
    assert again == made
    assert (again.plan.task_type, again.plan.num_labels, again.plan.loss) == ("SEQ_CLS", 7, "full")


def test_language_models_do_not_see_the_number_of_classes():
    model = ModelSpec.from_config(LLAMA, name="m")
    keys = {recipe(model, plan_of(task_type="CAUSAL_LM", num_labels=n), Conditions()).key for n in (2, 9)}
    assert len(keys) == 1
