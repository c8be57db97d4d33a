"""What waits in RAM is priced as it is: a real step on real tensors takes on the device what its tape says."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from estimator.replay.replay import Replay
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tape.sizes import pinned_bytes, rounded
from estimator.tracer.model import TracedModel
from estimator.tracer.recorder import IN_RAM, Recording
from estimator.tracer.step import Batch, recorded_step
from estimator.tracer.trace import trace
from specs import GIB, FinetunePlan, GpuSpec, ModelSpec
from tests.estimator.small import CONFIGS, model
from trainer.model.build import base_model, prepared_base, with_adapter
from trainer.model.checkpointing import with_checkpointing
from trainer.model.packing import META
from trainer.model.towers import decoder_layers

CONDITIONS = Conditions(padding="none", attention_kernel="cpu")
# Without workspaces and contexts: what is compared is the step alone.
BARE = GpuSpec(name="bare", backend="cpu", memory_bytes=GIB, usable_bytes=GIB)


def plan_of(**values) -> FinetunePlan:
    usual = {"dtype": "float32", "gradient_checkpointing": True, "per_device_train_batch_size": 2, "max_length": 300}
    return FinetunePlan.for_method("lora", "m", r=8, **{**usual, **values})


def real(plan: FinetunePlan, layers: int) -> TracedModel:
    """Return the model of a plan with real weights, all of whose layers are recorded."""
    torch.manual_seed(0)
    config = {**CONFIGS["llama"], "num_hidden_layers": layers}
    base = base_model(plan, config, device=META).to_empty(device="cpu")
    base.init_weights()
    for module in base.modules():
        if hasattr(module, "original_inv_freq"):
            module.inv_freq = module.original_inv_freq = module.compute_default_rope_parameters(module.config)[0]
    for weight in base.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    decoder = decoder_layers(base)
    prepared = with_checkpointing(prepared_base(base, plan), plan, device=META)
    add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    module = with_adapter(prepared, plan).train()
    for name, weight in module.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return TracedModel(module, decoder, tuple(range(layers)), 0, 0)


def recorded(plan: FinetunePlan, layers: int = 4) -> tuple[Recording, dict[str, torch.Tensor]]:
    """Return the recording of a real step, and the gradients that it leaves."""
    traced = real(plan, layers)
    batch = Batch(size=plan.per_device_train_batch_size, length=plan.max_length, masked=False)
    recording = recorded_step(traced, batch, plan=plan, conditions=CONDITIONS, mode=contextlib.nullcontext())
    return recording, {name: w.grad for name, w in traced.module.named_parameters() if w.grad is not None}


def peaks(recording: Recording) -> tuple[int, int]:
    """Return the most bytes that a recorded step has on the device, and in RAM."""
    sizes = np.array([allocation.num_bytes for allocation in recording.allocations])
    waits = np.array([IN_RAM in allocation.marks for allocation in recording.allocations])
    events = np.array(recording.events)

    def highest(taken):
        return int(np.cumsum(np.where(events >= 0, taken[events], -taken[-events - 1])).max())

    return highest(np.where(waits, 0, rounded(sizes))), highest(np.where(waits, pinned_bytes(sizes), 0))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reentrant", [False, True])
def test_kept_inputs_in_ram_take_what_the_tape_says_and_change_no_gradient(reentrant):
    away = plan_of(use_reentrant=reentrant, activation_offloading=True)
    recording, gradients = recorded(away)
    kept_recording, kept_gradients = recorded(dataclasses.replace(away, activation_offloading=False))
    assert gradients.keys() == kept_gradients.keys()
    assert all(torch.equal(gradients[name], kept_gradients[name]) for name in gradients)

    on_device, in_ram = peaks(recording)
    tape = trace(recipe(model("llama"), away, CONDITIONS), lambda _: None)
    replay = Replay(tape, away, BARE)
    assert int(replay.allocated.max()) == pytest.approx(on_device, rel=0.05)
    assert replay.waiting_bytes == in_ram
    hidden = away.per_device_train_batch_size * away.max_length * 256 * 4
    assert in_ram == 4 * int(pinned_bytes(np.array(hidden))), "the inputs of four layers"
    assert peaks(kept_recording)[0] - on_device == pytest.approx(3 * hidden, rel=0.05), "all but the layer's own"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("every", "layers"), [pytest.param(2, 9, id="every second"), pytest.param(3, 11, id="third")])
def test_recomputing_every_nth_layer_takes_what_a_few_traced_layers_say(every, layers):
    some = plan_of(every_n_layers=every, activation_offloading=True)
    spec = ModelSpec.from_config({**CONFIGS["llama"], "num_hidden_layers": layers}, name="m")
    tape = trace(recipe(spec, some, CONDITIONS), lambda _: None)
    assert len(set(tape.layers)) < layers, "some layers stand for others"
    recording, gradients = recorded(some, layers)
    on_device, in_ram = peaks(recording)
    replay = Replay(tape, some, BARE)
    assert int(replay.allocated.max()) == pytest.approx(on_device, rel=0.05)
    assert replay.waiting_bytes == in_ram
    _, all_recomputed = recorded(dataclasses.replace(some, every_n_layers=1), layers)
    assert all(torch.equal(gradients[name], all_recomputed[name]) for name in gradients)
