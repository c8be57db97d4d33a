"""The step of each task but text generation, compared with a real model: weights to the byte, what autograd keeps."""

import pytest
import torch
import transformers
from transformers import AutoConfig

from estimator.replay.replay import Replay
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tape.sizes import rounded_bytes
from estimator.tracer.trace import trace
from specs import GIB, TASK_TYPES, FinetunePlan, GpuSpec, ModelSpec, TraceError
from tests.trainer.classified import ENCODER_DECODERS, ENCODERS
from trainer.model import embedding
from trainer.model.build import build

pytestmark = pytest.mark.filterwarnings("ignore")

CPU = GpuSpec(name="bare", backend="cpu", memory_bytes=GIB, usable_bytes=GIB)
SIZES = {"num_hidden_layers": 4, "max_position_embeddings": 512}
LLAMA = {**SIZES, "model_type": "llama", "vocab_size": 500, "hidden_size": 32, "intermediate_size": 64}
CONFIGS = {
    "llama": {**LLAMA, "num_attention_heads": 2, "pad_token_id": 0},
    **{
        name: {**{key: value for key, value in found.to_dict().items() if key != "layer_types"}, **SIZES}
        for name, found in ENCODERS.items()
    },
    **{name: found.to_dict() for name, found in ENCODER_DECODERS.items()},
}
LENGTH = 32


def planned(task_type, method, **values):
    settings = {"task_type": task_type, "max_length": LENGTH, "r": 4, "per_device_train_batch_size": 2}
    if TASK_TYPES[task_type].uses("num_labels"):
        settings["num_labels"] = 5
    return FinetunePlan.for_method(method, "m", **{**settings, "dtype": "float32", "loss": "full", **values})


def traced(name, plan):
    spec = ModelSpec.from_config(CONFIGS[name], name=name)
    return trace(recipe(spec, plan, Conditions(), CPU), lambda _: None)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    made = {}

    def found(name, task_type):
        if (name, task_type) not in made:
            torch.manual_seed(0)
            folder = made[name, task_type] = tmp_path_factory.mktemp("m")
            kind = getattr(transformers, TASK_TYPES[task_type].auto_class)
            labels = {"num_labels": 5} if task_type == "TOKEN_CLS" else {}
            config = AutoConfig.for_model(**{**CONFIGS[name], **labels})
            kind.from_config(config).save_pretrained(folder)
        return made[name, task_type]

    return found


def labels_of(task_type):
    zeros = {
        "SEQ_CLS": {"labels": (2,)},
        "TOKEN_CLS": {"labels": (2, LENGTH)},
        "QUESTION_ANS": {"start_positions": (2,), "end_positions": (2,)},
        "SEQ_2_SEQ_LM": {"labels": (2, LENGTH)},
    }
    return {name: torch.zeros(shape, dtype=torch.long) for name, shape in zeros[task_type].items()}


def kept_by_autograd(real, plan):
    """The bytes, rounded like the allocator's, that autograd keeps of one real forward pass."""
    standing = {value.untyped_storage().data_ptr() for value in (*real.parameters(), *real.buffers())}
    kept, alive = {}, []

    def keep(value):
        kept[value.untyped_storage().data_ptr()] = rounded_bytes(value.untyped_storage().nbytes())
        alive.append(value.detach())
        return value

    def read():
        ids = torch.zeros(2, LENGTH, dtype=torch.long)
        mask = torch.ones_like(ids)
        mask[0, -1] = 0  # a mask that hides nothing would be left out
        return {"input_ids": ids, "attention_mask": mask}

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        if TASK_TYPES[plan.task_type].embeds:
            texts = [read() for _ in range(plan.texts_per_row)]
            scores = torch.rand(2) if plan.embedding_loss == "CoSENTLoss" else None
            embedding.loss_of(plan, real)(texts, scores)
        else:
            real(**read(), **labels_of(plan.task_type))
    return sum(size for place, size in kept.items() if place not in standing)


SOME = {("bert", "lora"), ("deberta-v2", "lora"), ("modernbert", "full")}
CASES = [
    pytest.param(name, task, method, id=f"{task}, {name}, {method}")
    for task, names in (
        ("TOKEN_CLS", ("llama", *ENCODERS)),
        ("QUESTION_ANS", ENCODERS),
        ("SEQ_2_SEQ_LM", ENCODER_DECODERS),
        ("FEATURE_EXTRACTION", ("llama", "bert", "modernbert")),
    )
    for name in names
    for method in ("full", "lora")
    if task != "QUESTION_ANS" or (name, method) in SOME
]


@pytest.mark.parametrize(("name", "task_type", "method"), CASES)
def test_a_step_holds_and_keeps_what_a_real_one_does(name, task_type, method, folder_of):
    plan = planned(task_type, method)
    tape, real = traced(name, plan), build(plan, folder_of(name, task_type), device="cpu")
    if TASK_TYPES[task_type].embeds:
        real = embedding.Embedder(plan, real, None).train()
    parameters = [entry for entry in tape.residents if entry.is_parameter]
    sizes = {entry: entry.elements(plan.r) * entry.itemsize * entry.count for entry in parameters}
    assert sum(sizes.values()) == sum(value.nbytes for value in real.parameters())
    assert sum(size for entry, size in sizes.items() if entry.trainable) == sum(
        value.nbytes for value in real.parameters() if value.requires_grad
    )
    replay = Replay(tape, plan, CPU)
    found = int(replay.allocated[replay.tape.program.forward_events - 1])
    kept = kept_by_autograd(real, plan)
    # BART's decoder makes a mask that hides nothing: a real one sees that and leaves it out, a fake one cannot.
    masks = 2 * 4 * 2 * LENGTH**2 if name == "bart" else 0
    assert found == pytest.approx(kept + masks, rel=1e-3)


def kept_at(positions, name="bert"):
    """The bytes that a forward pass keeps, by the tape of a model with so many positions."""
    plan = planned("TOKEN_CLS", "lora", max_length=16)
    spec = ModelSpec.from_config({**CONFIGS[name], "max_position_embeddings": positions}, name=name)
    replay = Replay(trace(recipe(spec, plan, Conditions(), CPU), lambda _: None), plan, CPU)
    return int(replay.allocated[replay.tape.program.forward_events - 1])


@pytest.mark.parametrize("positions", [64, 26])
def test_few_positions_are_traced_at_lengths_that_fit_them(positions):
    assert kept_at(positions) == kept_at(512)


def test_too_few_positions_to_trace_are_told():
    with pytest.raises(TraceError, match="bert: has positions for at most 20 tokens, and a step is traced with 23 or"):
        kept_at(20)
