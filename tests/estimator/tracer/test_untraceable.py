"""What is said of a model whose training step cannot be traced: its kind of reason, in our own words."""

import pytest

from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tracer.trace import trace
from specs import FinetunePlan, LorafitError, ModelSpec
from tests.trainer.model.test_misfit import SIZES

pytestmark = pytest.mark.filterwarnings("ignore")


LATENT = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        pytest.param(
            {"model_type": "jetmoe", "kv_channels": 16, "num_local_experts": 2, **SIZES},
            "jetmoe: training step cannot be traced: it goes by computed values, of which a trace has none.",
            id="decided by values",
        ),
        pytest.param(
            {"model_type": "xlnet", "d_model": 64, "n_head": 4, "d_inner": 96, "n_layer": 3, "vocab_size": 400},
            "xlnet: mixes 16 and 32 bit in transformers' own code, which PyTorch refuses.",
            id="two dtypes",
        ),
        pytest.param(
            {**SIZES, "model_type": "deepseek_v2", "n_routed_experts": 4, "num_key_value_heads": 4, **LATENT},
            "deepseek_v2: num_experts_per_tok: is missing, and transformers builds no such model without it.",
            id="a field that only the step reads",
        ),
    ],
)
def test_the_reason_is_said_without_the_words_of_libraries(config, said):
    model = ModelSpec.from_config({"intermediate_size": 96, "num_attention_heads": 4, **config}, name="small")
    plan = FinetunePlan.for_method("qlora", "small", lora_dropout=0.0, max_length=64)
    with pytest.raises(LorafitError) as refused:
        trace(recipe(model, plan, Conditions()), lambda _: None)
    assert str(refused.value).startswith(said)
