"""One step of a tape followed by hand: what is there after each event, at each peak, and on each of two devices."""

import dataclasses

import pytest

from estimator.estimate import estimate, trainable_params
from estimator.replay.live_tensors import Tensors, alive_at_peak
from estimator.replay.replay import Replay
from estimator.replay.reservation import unpacked_bytes
from estimator.replay.sharding import Replica, Unit, replica
from specs import GIB
from tests.estimator.hand import PROCESSOR, TAPE, plan

K = 1024
WORKER = GIB // 2
AT_REST = 4 * 2 * K + 512 + 512  # four layer weights, the norm and a buffer, each rounded up to 512
ADAPTER, STATES = 2 * K, 4 * K


def replayed(**values):
    return Replay(TAPE, plan(**values), PROCESSOR)


# An activation of 8 KiB from the start and from each layer, a workspace of 1 KiB in each layer, logits of 1 KiB; in the
# backward pass a gradient of 1 KiB for each layer before its activation goes, and the first activation with the last.
FORWARD = [8, 16, 17, 16, 24, 25, 24, 25]
BACKWARD = [24, 25, 17, 18, 10, 2]


def test_each_event_adds_or_frees_its_tensor():
    replay = replayed()
    assert [num_bytes // K for num_bytes in replay.allocated.tolist()] == FORWARD + BACKWARD
    assert TAPE.program.forward_events == len(FORWARD)
    assert TAPE.program.backward_ends == (11, 14)
    assert replay.peak_event() == 5


def test_accumulated_gradients_are_there_already_and_new_ones_go():
    replay = replayed(gradient_accumulation_steps=2)
    assert [num_bytes // K for num_bytes in replay.allocated.tolist()] == [*FORWARD, 24, 25, 16, 17, 8, 0]
    assert replay.fixed["gradients"] == 2 * K


@pytest.mark.parametrize(
    ("values", "states", "gradients", "optimizer"),
    [
        pytest.param({}, STATES, 0, 2 * K, id="roots of the second moments"),
        pytest.param({"optim": "adamw_torch_fused"}, STATES + 2 * 512, 0, K, id="norms of two gradients alone"),
        pytest.param({"optim": "sgd"}, 0, 0, K, id="no states"),
        pytest.param({"gradient_accumulation_steps": 2}, STATES, 2 * K, 2 * K - 2 * K, id="gradients count as fixed"),
    ],
)
def test_each_phase_has_its_peak(values, states, gradients, optimizer):
    fixed = AT_REST + ADAPTER + states + gradients
    assert replayed(**values).phases() == {
        "load": AT_REST,
        "forward": fixed + 25 * K,
        "backward": fixed + 25 * K,
        "optimizer": fixed + 2 * K + optimizer,
    }


@pytest.mark.parametrize(
    ("method", "unpacked"),
    [
        pytest.param("lora", 0, id="nothing is quantized"),
        pytest.param("qlora", 4 * 2_000, id="four times the largest packed weight"),
        pytest.param("lora-8bit", 2 * 2_000, id="twice"),
    ],
)
def test_loading_holds_one_weight_before_it_is_quantized(method, unpacked):
    assert replayed(method=method).load_bytes() == AT_REST + unpacked


@pytest.mark.parametrize(
    ("method", "dtype", "num_bytes"),
    [
        pytest.param("qlora", "bfloat16", 4 * 1000 * 2 * 2, id="two 16-bit weights in a byte"),
        pytest.param("qlora", "float32", 4 * 1000 * 2 * 4, id="two 32-bit weights in a byte"),
        pytest.param("lora-8bit", "bfloat16", 4 * 1000 * 2, id="one 16-bit weight in a byte"),
        pytest.param("lora", "bfloat16", 0, id="none"),
    ],
)
def test_packed_weights_were_so_large_before(method, dtype, num_bytes):
    packed = [
        dataclasses.replace(entry, itemsize=1) if entry.layer is not None and not entry.trainable else entry
        for entry in TAPE.residents
    ]
    tape = dataclasses.replace(TAPE, residents=tuple(packed))
    assert unpacked_bytes(tape, plan(method, dtype=dtype)) == num_bytes


def test_the_tensors_at_the_peak_are_listed_with_their_place_in_the_model():
    assert set(alive_at_peak(replayed())) == {
        Tensors("activations", 1, 8 * K, "before the layers"),
        Tensors("activations", 2, 8 * K, "layers, forward"),
        Tensors("workspace", 1, K, "layers, forward"),
        Tensors("weights", 4, 2 * K, "layers"),
        Tensors("weights", 2, 512, "outside the layers"),
        Tensors("adapter", 2, K, "layers"),
        Tensors("optimizer_states", 1, STATES),
    }


def test_what_merged_gradients_leave_is_listed_as_a_sum():
    listed = alive_at_peak(replayed(gradient_accumulation_steps=2))
    assert [entry for entry in listed if entry.component == "gradients"] == [Tensors("gradients", 1, 2 * K)]


def test_an_estimate_on_a_processor_is_its_tensors_and_the_worker():
    found = estimate(TAPE, plan(), PROCESSOR)
    peak = AT_REST + ADAPTER + STATES + 25 * K
    assert (found.peak_allocated_bytes, found.peak_reserved_bytes) == (peak, peak)
    assert (found.used_bytes, found.host_bytes) == (peak + WORKER, peak + WORKER)
    assert found.trainable_params == trainable_params(TAPE, plan()) == 2 * 64 * 4
    assert found.components == {
        "weights": AT_REST,
        "quantization_constants": 0,
        "adapter": ADAPTER,
        "gradients": 0,
        "optimizer_states": STATES,
        "activations": 24 * K,
        "logits": 0,
        "workspace": K,
        "cache": 0,
        "overhead": WORKER,
    }


def test_a_peak_in_the_optimizers_step_counts_what_it_needs_as_workspace():
    large = dataclasses.replace(TAPE.residents[-1], num_elements_per_rank=64 * 1000)
    found = estimate(dataclasses.replace(TAPE, residents=(*TAPE.residents[:-1], large)), plan(), PROCESSOR)
    assert found.peak_allocated_bytes == found.phases["optimizer"] > found.phases["backward"]
    # Two gradients of 1 KiB stay from the pass; roots of the second moments are as large as the adapter.
    assert (found.components["gradients"], found.components["activations"]) == (2 * K, 0)
    assert found.components["workspace"] == found.components["adapter"] == 2 * 64 * 1000 * 4 * 4


def test_the_course_of_a_step_has_its_phases_and_sums():
    fixed = (AT_REST + ADAPTER + STATES) // K
    course = estimate(TAPE, plan(), PROCESSOR).timeline
    assert [(moment.phase, moment.position, moment.allocated_bytes // K - fixed) for moment in course] == [
        *(("forward", number / 8, size) for number, size in enumerate(FORWARD)),
        *(("backward", number / 6, size) for number, size in enumerate(BACKWARD)),
    ]
    assert course[5].components["activations"] == 24 * K
    merged = estimate(TAPE, plan(gradient_accumulation_steps=2), PROCESSOR).timeline
    assert [moment.components["gradients"] // K for moment in merged] == [*[2] * 9, 3, 2, 3, 2, 2]


def test_what_is_divided_is_read_off_the_tensors():
    assert replica(TAPE, plan()) == Replica(
        frozen={"weights": 4 * 2_000 + 200},
        trained={"adapter": 512},
        trained_itemsize=4,
        whole={"weights": 200},  # the buffer
        persistent_bytes=4 * 2_000 + 200 + 2 * 1_024,  # up to ten times the norm's 100 elements
        optimizer_bytes=STATES,
        states_follow_weights=True,
        layers={0: Unit(frozen_bytes=4_000, trained_params=256)},
        embedding=Unit(frozen_bytes=0, trained_params=0),
        tail=Unit(frozen_bytes=200, trained_params=0),
        hidden_size=100,
    )


def test_two_processors_hold_the_gradients_twice_and_no_nccl():
    alone = estimate(TAPE, plan(), PROCESSOR)
    found = estimate(TAPE, plan(num_gpus=2, sharding="ddp"), PROCESSOR)
    unrounded = 8_200 + 200
    peak = unrounded + ADAPTER + STATES + 25 * K + 2 * K
    assert found.peak_allocated_bytes == found.peak_reserved_bytes == peak
    assert found.used_bytes == found.host_bytes == peak + WORKER
    more = peak - alone.peak_allocated_bytes
    assert found.phases == {
        "load": unrounded,
        **{name: alone.phases[name] + more for name in ("forward", "backward", "optimizer")},
    }
    assert [moment.allocated_bytes for moment in found.timeline][5] == peak
    assert "each of 2 devices under ddp" in found.assumptions[-1]


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        pytest.param({"sharding": "fsdp"}, True, id="FSDP leaves integers whole"),
        pytest.param({"sharding": "zero3"}, True, id="ZeRO-3 too"),
        pytest.param({"sharding": "zero2"}, False, id="ZeRO-2 divides no weights"),
        pytest.param({"sharding": "fsdp", "bnb_4bit_quant_storage": "bfloat16"}, False, id="packed into bfloat16"),
        pytest.param({"sharding": "fsdp", "method": "lora"}, False, id="nothing packed"),
    ],
)
def test_weights_packed_as_integers_are_warned_of_where_they_would_be_divided(values, warned):
    found = estimate(TAPE, plan(**{"method": "qlora", "num_gpus": 2, **values}), PROCESSOR)
    assert any("packed as uint8" in text for text in found.warnings) == warned


@pytest.mark.parametrize(
    ("left", "method", "warned"),
    [
        pytest.param(82, "qlora", False, id="2 % of 4,100 weights"),
        pytest.param(83, "qlora", True, id="more"),
        pytest.param(83, "lora-8bit", True, id="more, in 8 bit"),
        pytest.param(83, "lora", False, id="nothing should have been quantized"),
    ],
)
def test_weights_that_stay_in_16_bit_are_warned_of(left, method, warned):
    tape = dataclasses.replace(TAPE, facts={"unquantized_params": left, "warnings": ["From the trace."]})
    found = estimate(tape, plan(method), PROCESSOR)
    assert found.warnings[0] == "From the trace."
    assert (len(found.warnings) > 1) == warned


def test_the_warning_of_weights_in_16_bit_has_their_number_and_bytes():
    tape = dataclasses.replace(TAPE, facts={"unquantized_params": 3_221_225_472})
    (text,) = estimate(tape, plan("qlora"), PROCESSOR).warnings
    assert "3.2 billion weights of the layers stay in 16-bit (6.0 GiB): they belong to no linear layer" in text
    (text,) = estimate(tape, plan("lora-8bit"), PROCESSOR).warnings
    assert "(6.0 GiB): in 8-bit only plain linear layers are quantized" in text
