"""What a step computes: counted on real models by PyTorch's own counter, and by kind as the formulas say."""

import dataclasses

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from estimator.duration import operations
from estimator.duration.operations import Kind, Pass
from estimator.duration.step import seconds_by_kind
from specs import FinetunePlan, ModelSpec
from tests.advisor.test_speed import FLAT
from tests.estimator.small import CONFIGS
from trainer.model.build import base_model, with_adapter
from trainer.model.checkpointing import with_checkpointing
from trainer.model.layers import layers
from trainer.model.packing import META

BATCH, LENGTH = 2, 32
ARCHITECTURES = (
    "llama",
    "qwen2 with biases and a tied head",
    "gpt2 with Conv1D",
    "phi3 with fused projections",
)


def spec_of(name, model):
    return ModelSpec.from_config(CONFIGS[name], name=name).with_layers(layers(model))


def counted(name, method, **values):
    """Return a small model's spec, a plan, and the operations that PyTorch counts in one step of it."""
    plan = FinetunePlan.for_method(
        method, "m", loss="full", attn_implementation="eager", max_length=LENGTH,
        per_device_train_batch_size=BATCH, **values,
    )  # fmt: skip
    model = base_model(plan, dict(CONFIGS[name]), device=META).to_empty(device="cpu")
    spec = spec_of(name, model)
    model = with_checkpointing(model, plan, device="cpu") if plan.gradient_checkpointing else model
    trained = model if method == "full" else with_adapter(model, plan)
    trained.train()
    ids = torch.zeros(BATCH, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        trained(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return spec, plan, counter.get_total_flops()


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(
    ("method", "values"),
    [
        pytest.param("full", {}, id="all weights"),
        pytest.param("lora", {"r": 8}, id="LoRA"),
        pytest.param("lora", {"r": 8, "gradient_checkpointing": True}, id="LoRA, recomputed"),
    ],
)
def test_operations_are_those_that_pytorch_counts(name, method, values):
    """The formulas give every layer an input gradient; the first layer's has no use, so PyTorch leaves it out."""
    spec, plan, expected = counted(name, method, **values)
    found = operations.total_flops(operations.operations(spec, plan))
    first = operations.widths(spec).linear / spec.num_hidden_layers * 2 * BATCH * LENGTH
    assert expected <= found * 1.001
    assert found - expected <= first, "at most the input gradient of one layer is counted too much"


def test_attention_is_counted_as_pytorch_counts_its_fused_kernel():
    spec = ModelSpec.from_config(CONFIGS["llama"], name="llama")
    plan = FinetunePlan.for_method("lora", "m", max_length=LENGTH, per_device_train_batch_size=BATCH)
    shape = (BATCH, spec.num_attention_heads, LENGTH, spec.head_dim)
    expected = {
        Pass.FORWARD: sdpa_flop_count(shape, shape, shape),
        Pass.BACKWARD: sdpa_backward_flop_count(shape, shape, shape, shape),
    }
    found = {
        entry.during: entry.flops / spec.num_hidden_layers
        for entry in operations.operations(spec, plan)
        if entry.kind is Kind.ATTENTION
    }
    assert found == expected


def by_kind(method="lora", batch=1, length=64, *, pairs=False, **values):
    spec = ModelSpec.from_config(CONFIGS["llama"], name="llama")
    plan = FinetunePlan.for_method(method, "m", **values)
    found = operations.operations(spec, plan, batch=batch, length=length, pairs=pairs)
    return {
        kind: (sum(e.flops for e in found if e.kind is kind), sum(e.moved_bytes for e in found if e.kind is kind))
        for kind in Kind
    }


def test_twice_the_batch_is_twice_the_work_and_twice_the_length_four_times_the_attention():
    one, wide, long = by_kind(), by_kind(batch=2), by_kind(length=128)
    for kind in (Kind.MATMUL, Kind.ADAPTER, Kind.ATTENTION):
        assert wide[kind][0] == pytest.approx(2 * one[kind][0])
    assert long[Kind.ATTENTION][0] == pytest.approx(4 * one[Kind.ATTENTION][0])
    assert long[Kind.OPTIMIZER] == one[Kind.OPTIMIZER]


def test_twice_the_rank_is_twice_the_adapter_and_nothing_else():
    low, high = by_kind(r=8), by_kind(r=16)
    assert high[Kind.ADAPTER][0] == 2 * low[Kind.ADAPTER][0]
    assert high[Kind.OPTIMIZER][1] == 2 * low[Kind.OPTIMIZER][1]
    assert high[Kind.MATMUL] == low[Kind.MATMUL]


def test_weights_are_expanded_once_a_pass():
    """Half a byte and 1/16 of a constant read, and four bytes written, of 4 layers' weights, forward and backward."""
    spec = ModelSpec.from_config(CONFIGS["llama"], name="llama")
    stored = operations.widths(spec).stored
    assert by_kind("qlora")[Kind.DEQUANTIZE][1] == pytest.approx(2 * (0.5625 + 2) * stored)
    assert by_kind("qlora", gradient_checkpointing=True)[Kind.DEQUANTIZE][1] == pytest.approx(3 * 2.5625 * stored)
    assert by_kind("lora")[Kind.DEQUANTIZE][1] == 0


def test_what_waits_in_ram_crosses_the_bus_twice_a_step():
    """Of 4 layers, half a byte of each weight, and the inputs of 64 tokens of width 256 in 16 bit."""
    spec = ModelSpec.from_config(CONFIGS["llama"], name="llama")
    streamed = by_kind("qlora", layer_offloading=True, gradient_checkpointing=True)[Kind.TRANSFER][1]
    assert streamed == pytest.approx(2 * operations.widths(spec).stored / 2)
    inputs = 2 * 64 * 256 * 2
    for every, recomputed in ((1, 4), (2, 2), (3, 2)):
        values = {"gradient_checkpointing": True, "activation_offloading": True, "every_n_layers": every}
        assert by_kind(**values)[Kind.TRANSFER][1] == pytest.approx(recomputed * inputs)
    assert by_kind(activation_offloading=True)[Kind.TRANSFER][1] == 0, "without checkpointing nothing is kept so"


def test_half_of_the_layers_recomputed_is_half_of_the_second_pass():
    none, half, every = (
        by_kind(gradient_checkpointing=on, every_n_layers=n)[Kind.MATMUL][0]
        for on, n in ((False, 1), (True, 2), (True, 1))
    )
    assert half - none == pytest.approx((every - none) / 2)


def test_pairs_take_twice_the_sequences_and_one_more_pass_of_the_base_model():
    alone, pairs = by_kind(), by_kind(pairs=True)
    assert pairs[Kind.MATMUL][0] == pytest.approx(2 * 1.5 * alone[Kind.MATMUL][0], rel=0.05)
    assert pairs[Kind.ADAPTER][0] == 2 * alone[Kind.ADAPTER][0], "the reference is read without the adapter"


_UNCOUNTED = {"mm", "addmm_", "t", "slice", "view", "alias", "detach", "unsqueeze", "empty", "zeros_like", "gather"}
"""Products, views, and what touches next to nothing."""


class _Passes(TorchDispatchMode):
    """Counts in bytes how often tensors of one size are read and written, in units of 32 bit a number."""

    def __init__(self, size):
        super().__init__()
        self.size, self.count = size, 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        name = str(func).split(".")[1]
        if name in _UNCOUNTED:
            return found
        read = {id(tensor): tensor for tensor in pytree.tree_leaves((args, kwargs))}
        written = args[0] if name.endswith("_") else found
        self.count += sum(map(self._share, [*read.values(), *pytree.tree_leaves(written)]))
        return found

    def _share(self, value):
        whole = isinstance(value, torch.Tensor) and value.numel() == self.size
        return value.element_size() / 4 if whole else 0.0


def test_the_chunked_loss_goes_over_its_logits_as_often_as_trl_does_on_a_cpu():
    hidden, words = torch.ones(4, 2, requires_grad=True), torch.ones(8, 2)
    with _Passes(4 * 8) as passes:
        told, *_ = ChunkedLogProbFunction.apply(
            hidden, words, None, torch.zeros(4, dtype=torch.long), 1.0, 8, None, 1.0, ("entropy", "is_top1")
        )
        forward = passes.count
        told.sum().backward()
    expected = operations._PASSES_OF_CHUNKS
    assert forward == pytest.approx(expected["forward"], abs=1)
    assert passes.count - forward == pytest.approx(expected["backward"], abs=1)
    plan = FinetunePlan.for_method("lora", "m", loss="chunked", dtype="float32")
    model = ModelSpec.from_config(CONFIGS["llama"], name="m")
    fused, unfused = (
        seconds_by_kind(operations.operations(model, plan), dataclasses.replace(FLAT, overlaps=overlaps), plan)[
            Kind.LOSS
        ]
        for overlaps in (True, False)
    )
    assert unfused / fused == pytest.approx(43.5 / 12)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_an_update_reads_and_writes_each_weight_as_often_as_pytorch_does(optim):
    weight = torch.nn.Parameter(torch.ones(1000))
    weight.grad = torch.ones(1000)
    update = torch.optim.AdamW([weight], weight_decay=0.1, foreach=True)
    update.step()
    with _Passes(1000) as passes:
        torch.nn.utils.clip_grad_norm_([weight], 1.0, foreach=True)
        clipped = passes.count
        update.step()
    told = operations._PARAMETER_PASSES
    assert clipped == operations._CLIPPING_PASSES
    assert passes.count - clipped == told["adamw_torch"]
    plans = (FinetunePlan.for_method("full", "m", optim=optim, max_grad_norm=norm) for norm in (1.0, 0.0))
    model = ModelSpec.from_config(CONFIGS["llama"], name="m")
    with_clipping, without = (operations.operations(model, plan)[-1] for plan in plans)
    assert with_clipping.moved_bytes / without.moved_bytes == pytest.approx((told[optim] + clipped) / told[optim])
