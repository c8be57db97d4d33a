"""Every type of model with several towers: what the estimate counts is what the trainer builds, or both refuse it."""

import pytest
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from catalog.shapes import architectures
from estimator.estimate import trainable_params
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tracer import trace as tracing
from specs import FinetunePlan, LorafitError, ModelSpec
from trainer.model.build import build

SAMPLED = frozenset({"gemma3", "internvl", "mistral3", "paligemma", "qwen2_vl", "voxtral", "florence2", "blip-2"})
TYPES = sorted(name for name, entry in architectures().items() if "text" in entry)
TESTED = sorted({*TYPES[::3], *SAMPLED})
"""All of them take four minutes of a core, the largest by themselves one: every third shows what they share."""
PLAN = FinetunePlan.for_method("lora", "towers", lora_dropout=0.0, max_length=64, per_device_train_batch_size=1)

pytestmark = pytest.mark.filterwarnings("ignore")


def default(model_type):
    """The configuration of a type's defaults; None where transformers' own defaults make no model."""
    try:
        return {**CONFIG_MAPPING[model_type]().to_dict(), "model_type": model_type}
    except Exception:  # noqa: BLE001 - each of these classes fails in its own way
        return None


@pytest.fixture(autouse=True)
def _short_probes(monkeypatch):
    transformers.logging.set_verbosity_error()
    monkeypatch.setattr(tracing, "_LENGTHS", tracing._SHORT_LENGTHS)


@pytest.mark.parametrize(
    "model_type", [pytest.param(name, marks=() if name in SAMPLED else pytest.mark.slow) for name in TESTED]
)
def test_what_is_estimated_is_what_is_trained(model_type):
    config = default(model_type)
    if config is None:
        pytest.skip("transformers' own defaults build no model")
    try:
        model = ModelSpec.from_config(config, name=model_type)
        tape = tracing.trace(recipe(model, PLAN, Conditions()), lambda _: None)
    except LorafitError as refusal:
        assert len(str(refusal)) <= 300  # noqa: PT017 - a refusal in one sentence is right, a traceback is not
        return
    built = build(PLAN, config, device="meta")
    assert trainable_params(tape, PLAN) == sum(weight.numel() for weight in built.parameters() if weight.requires_grad)
    assert tape.num_params == sum(weight.numel() for name, weight in built.named_parameters() if "lora_" not in name)
