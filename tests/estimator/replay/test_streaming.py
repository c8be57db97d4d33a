"""What is on the device and in RAM while layers are streamed is what the trainer's model really has in both places."""

import numpy as np
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from estimator.replay.streaming import streamed, streamed_bytes
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tape.sizes import pinned_bytes, rounded_bytes
from estimator.tracer.model import quantization_constants
from estimator.tracer.trace import trace
from specs import FinetunePlan
from tests.estimator.small import CONFIGS, model
from trainer.model.build import build

PLAN = FinetunePlan.for_method("qlora", "m", r=8, dtype="float32", max_length=64, layer_offloading=True)


@pytest.fixture(scope="module")
def tape():
    return trace(recipe(model("llama"), PLAN, Conditions(attention_kernel="cpu")), lambda _: None)


@pytest.mark.filterwarnings("ignore")
def test_a_streamed_model_takes_what_its_tape_says(tape, tmp_path):
    values = {name: value for name, value in CONFIGS["llama"].items() if name != "model_type"}
    LlamaForCausalLM(LlamaConfig(**values)).save_pretrained(tmp_path)
    real = build(PLAN, str(tmp_path), device="cpu")
    held = [
        *real.parameters(),
        *real.buffers(),
        *(one for part in real.modules() for one in quantization_constants(part)),
    ]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in held}
    predicted = sum(e.bytes_each(PLAN.r) * e.count for e in streamed(tape, PLAN, on_cpu=False).residents)
    assert predicted == pytest.approx(sum(map(rounded_bytes, storages.values())), rel=0.05)

    packed = [weight.nbytes for weight in real.parameters() if getattr(weight, "quant_state", None) is not None]
    table = real.get_input_embeddings().weight.nbytes
    assert streamed_bytes(tape, PLAN) == int(pinned_bytes(np.array(packed)).sum()) + table


def test_a_cpu_has_all_layers_and_the_place_besides(tape):
    more = streamed(tape, PLAN, on_cpu=True).residents[len(tape.residents) :]
    assert [(entry.count, entry.layer) for entry in more] == [(1, None)]
    weights = sum(
        e.bytes_each(PLAN.r) * e.count for e in tape.residents if e.itemsize == 1 and e.component == "weights"
    )
    assert more[0].bytes_each(PLAN.r) == weights // 4, "one of four layers"
