import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import gpus, models
from estimator import pricing
from estimator.estimate import estimate
from estimator.replay.sharding import NCCL_BYTES, Replica, Unit, gpus_needed, replica, share
from estimator.tape.library import tape_for
from estimator.tape.tape import COMPONENTS
from specs import GIB, FinetunePlan, PlanError

SEVEN_AND_A_HALF = 7_500_000_000
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp")


def whole(num_params=SEVEN_AND_A_HALF, layers=32):
    """A model fully trained in 16-bit with Adam, made only of layers."""
    return Replica(
        frozen={},
        trained={"weights": num_params},
        trained_itemsize=2,
        whole={},
        persistent_bytes=0,
        optimizer_bytes=4 * num_params,
        states_follow_weights=True,
        layers={0: Unit(frozen_bytes=0, trained_params=num_params // layers)},
        embedding=Unit(frozen_bytes=0, trained_params=0),
        tail=Unit(frozen_bytes=0, trained_params=0),
        hidden_size=4096,
    )


def several(sharding, num_gpus=64, method="full", **values):
    return FinetunePlan.for_method(method, "m", num_gpus=num_gpus, sharding=sharding, bf16=True, **values)


@pytest.mark.parametrize(
    ("sharding", "gigabytes"),
    [
        pytest.param("zero1", 31.4, id="optimizer divided"),
        pytest.param("zero2", 16.6, id="and gradients"),
        pytest.param("zero3", 1.88, id="and parameters"),
    ],
)
def test_the_figures_of_the_zero_paper_are_reproduced(sharding, gigabytes):
    # Rajbhandari et al. 2020, figure 1: 7.5B parameters on 64 GPUs; the paper says 1.9 for the last.
    components = dict(share(whole(), several(sharding)).components)
    del components["workspace"]
    assert sum(components.values()) / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_data_parallelism_keeps_the_gradients_twice():
    alone = share(whole(), FinetunePlan.for_method("full", "m"))
    ddp = share(whole(), several("ddp"))
    assert alone.components["workspace"] == 0
    assert ddp.num_bytes - alone.num_bytes == 2 * SEVEN_AND_A_HALF + NCCL_BYTES


def test_fsdp_holds_its_shard_of_weights_gradients_and_states():
    held = share(whole(), several("fsdp"))
    assert held.components["weights"] == 4 * SEVEN_AND_A_HALF / 64  # trained weights are upcast to 32-bit
    assert held.components["gradients"] == 4 * SEVEN_AND_A_HALF / 64
    assert held.components["optimizer_states"] == 8 * SEVEN_AND_A_HALF / 64


@given(st.sampled_from(STRATEGIES[1:]), st.integers(2, 5000), st.integers(1, 100))
def test_with_more_gpus_each_never_holds_more(sharding, num_gpus, more):
    fewer = share(whole(), several(sharding, num_gpus))
    greater = share(whole(), several(sharding, num_gpus + more))
    assert greater.num_bytes <= fewer.num_bytes


@given(st.integers(2, 5000))
def test_each_stage_of_zero_holds_no_more_than_the_one_before(num_gpus):
    one, two, three = (share(whole(), several(f"zero{stage}", num_gpus)) for stage in (1, 2, 3))
    assert two.num_bytes <= one.num_bytes
    states = ("weights", "gradients", "optimizer_states")
    assert sum(three.components[name] for name in states) <= sum(two.components[name] for name in states)


@pytest.mark.parametrize(
    ("sharding", "offload"), [("zero1", "optimizer"), ("zero2", "optimizer"), ("zero3", "all"), ("fsdp", "all")]
)
def test_offloading_moves_bytes_from_the_gpu_to_ram(sharding, offload):
    kept, moved = share(whole(), several(sharding, 8)), share(whole(), several(sharding, 8, offload=offload))
    assert moved.components["optimizer_states"] == 0
    assert moved.host_bytes >= kept.components["optimizer_states"]
    assert moved.num_bytes < kept.num_bytes
    assert kept.host_bytes == 0


@pytest.mark.parametrize(("sharding", "offload"), [("ddp", "all"), ("zero2", "all"), ("fsdp", "optimizer")])
def test_an_offload_that_a_strategy_does_not_have_is_refused(sharding, offload):
    with pytest.raises(PlanError, match=r"offload: must be .* with sharding"):
        several(sharding, offload=offload)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_the_replica_of_a_traced_model_has_all_of_its_tensors(method):
    model = models.find("HuggingFaceTB/SmolLM2-135M")
    plan = FinetunePlan.for_method(method, model.name, bf16=True)
    tape = tape_for(model, plan)
    found = replica(tape, plan)
    held = share(found, plan)
    trained = {"full": model.num_params, "lora": 4_884_480, "qlora": 4_884_480}[method]
    assert found.trained_params == trained
    assert found.hidden_size == model.hidden_size
    resident = sum(entry.elements(plan.r) * entry.itemsize * entry.count for entry in tape.residents)
    not_weights = sum(held.components[name] for name in ("gradients", "optimizer_states", "workspace"))
    assert held.num_bytes - not_weights == resident
    tail = 2 * (model.vocab_size + 1) * model.hidden_size  # tied to the embedding, and the last norm
    assert found.tail.frozen_bytes + 2 * found.tail.trained_params == tail
    assert found.embedding.frozen_bytes == found.embedding.trained_params == 0
    assert bool(found.whole.get("weights", 0) > 1e6) == (method == "qlora")


def test_weights_in_floating_point_storage_are_sharded_and_integers_are_not():
    model = models.find("HuggingFaceTB/SmolLM2-135M")
    packed = FinetunePlan.for_method("qlora", model.name, num_gpus=8, sharding="fsdp", bf16=True)
    floating = dataclasses.replace(packed, bnb_4bit_quant_storage="bfloat16")
    shares = [share(replica(tape_for(model, plan), plan), plan) for plan in (packed, floating)]
    assert shares[1].components["weights"] < 0.3 * shares[0].components["weights"]


def test_the_number_of_gpus_needed_is():
    card = gpus.find("H100 SXM5 80 GB").usable_bytes
    llama = whole(405_853_388_800, layers=126)

    def on_each(num_gpus):
        if num_gpus == 1:
            return share(llama, FinetunePlan.for_method("full", "m")).num_bytes
        return share(llama, several("fsdp", num_gpus)).num_bytes

    needed = gpus_needed(on_each, card)
    assert needed == -(-16 * 405_853_388_800 // (card - NCCL_BYTES)), "16 bytes for each parameter, sharded"
    assert on_each(needed) <= card < on_each(needed - 1)
    assert gpus_needed(on_each, GIB // 4) is None
    assert gpus_needed(lambda _: 5, 5) == 1


@given(st.integers(1, 10**9), st.integers(1, 10**6))
def test_the_number_of_gpus_needed_is_the_smallest_that_fits(total, usable):
    needed = gpus_needed(lambda n: -(-total // n), usable)
    assert (needed is None) == (-(-total // 16_384) > usable)
    if needed is not None:
        assert -(-total // needed) <= usable
        assert needed == 1 or -(-total // (needed - 1)) > usable


@pytest.mark.parametrize("sharding", STRATEGIES)
def test_the_estimate_of_one_of_several_gpus_sums_to_what_it_uses(sharding):
    model, card = models.find("HuggingFaceTB/SmolLM2-135M"), gpus.find("RTX 4090")
    alone_plan = FinetunePlan.for_method("full", model.name, bf16=True)
    plan = dataclasses.replace(alone_plan, num_gpus=8, sharding=sharding)
    tape = tape_for(model, alone_plan)
    alone, each = estimate(tape, alone_plan, card), estimate(tape, plan, card)
    assert sum(each.components.values()) == each.used_bytes
    assert max(each.phases.values()) == each.peak_allocated_bytes
    assert each.peak_allocated_bytes <= each.peak_reserved_bytes <= each.used_bytes
    assert {name for moment in each.timeline for name in moment.components} == set(COMPONENTS)
    assert min(num_bytes for moment in each.timeline for num_bytes in moment.components.values()) >= 0
    if sharding == "ddp":
        assert each.used_bytes > alone.used_bytes
    else:
        assert each.components["optimizer_states"] < alone.components["optimizer_states"]


@pytest.mark.parametrize(
    ("method", "sharding", "needed"),
    [
        pytest.param("full", "none", 3, id="a strategy is chosen where the plan names none"),
        pytest.param("qlora", "none", 1, id="one is enough"),
        pytest.param("full", "ddp", None, id="plain data parallelism divides nothing"),
    ],
)
def test_the_number_of_cards_that_a_model_needs_is(method, sharding, needed):
    model, card = models.find("HuggingFaceTB/SmolLM2-135M"), gpus.of_memory(2.2)
    num_gpus = 1 if sharding == "none" else 2
    plan = FinetunePlan.for_method(method, model.name, num_gpus=num_gpus, sharding=sharding)
    assert pricing.gpus_needed(model, plan, card) == needed
    if needed is not None and needed > 1:
        verdicts = [
            pricing.price(model, dataclasses.replace(plan, num_gpus=number, sharding="fsdp"), card).verdict
            for number in (needed - 1, needed)
        ]
        assert verdicts[0] == "does not fit"
        assert verdicts[1] != "does not fit"


SMALL = Replica(
    frozen={"weights": 1000},
    trained={"adapter": 100},
    trained_itemsize=4,
    whole={"quantization_constants": 10},
    persistent_bytes=20,
    optimizer_bytes=800,
    states_follow_weights=True,
    layers={0: Unit(frozen_bytes=400, trained_params=40)},
    embedding=Unit(frozen_bytes=0, trained_params=0),
    tail=Unit(frozen_bytes=100, trained_params=0),
    hidden_size=8,
)
"""A frozen model of 1,000 bytes with 100 trained weights, worked out by hand below for four GPUs."""


@pytest.mark.parametrize(
    ("plan", "replaced", "expected", "host"),
    [
        pytest.param(several("ddp", 4, "lora"), {}, (1000, 400, 400, 800, 400), 0, id="DDP: all, gradients twice"),
        # In mixed precision the engine casts everything to 16 bit and keeps 25 weights and 2 states each in 32 bit.
        pytest.param(several("zero1", 4, "lora"), {}, (1000, 200, 200, 300, 128), 0, id="ZeRO-1: states divided"),
        pytest.param(several("zero2", 4, "lora"), {}, (1000, 200, 50, 300, 128), 0, id="ZeRO-2: gradients too"),
        # Up to a billion weights live: here all 1,200 bytes; 20 bytes are too small to divide.
        pytest.param(several("zero3", 4, "lora"), {}, (270, 50, 50, 300, 1328), 0, id="ZeRO-3: weights too"),
        pytest.param(
            several("zero3", 4, "lora"),
            {"frozen": {"weights": 3_000_000_000}},
            (750_000_020, 50, 50, 300, 2_000_000_128),
            0,
            id="ZeRO-3: a billion weights live at most",
        ),
        # 32-bit copies, states and gradients of 25 weights; a layer's 40 gradients in 16 bit stay on the GPU.
        pytest.param(
            several("zero2", 4, "lora", offload="optimizer"), {}, (1000, 200, 80, 0, 128), 400, id="ZeRO-2: in RAM"
        ),
        pytest.param(
            several("zero3", 4, "lora", offload="all"), {}, (20, 0, 80, 0, 1328), 700, id="ZeRO-3: all in RAM"
        ),
        pytest.param(
            several("zero1", 4, "lora"), {"trained_itemsize": 2}, (1000, 200, 200, 500, 128), 0, id="16-bit states grow"
        ),
        pytest.param(
            several("zero1", 4, "lora"),
            {"trained_itemsize": 2, "states_follow_weights": False},
            (1000, 200, 200, 300, 128),
            0,
            id="states of their own dtype do not",
        ),
        pytest.param(several("fsdp", 4, "lora"), {}, (250, 100, 100, 200, 0), 0, id="FSDP: all divided"),
        pytest.param(several("fsdp", 4, "lora", offload="all"), {}, (0, 0, 0, 0, 0), 650, id="FSDP: all in RAM"),
        pytest.param(
            several("fsdp", 4, "lora"), {"trained_itemsize": 2}, (250, 100, 100, 400, 0), 0, id="FSDP raises 16 bit"
        ),
        pytest.param(
            several("fsdp", 4, "qlora"), {"trained_itemsize": 2}, (250, 50, 50, 200, 0), 0, id="but not QLoRA's"
        ),
    ],
)  # fmt: skip
def test_one_of_four_gpus_holds_so_much(plan, replaced, expected, host):
    held = share(dataclasses.replace(SMALL, **replaced), plan)
    names = ("weights", "adapter", "gradients", "optimizer_states", "workspace")
    assert tuple(held.components[name] for name in names) == expected
    assert held.components["quantization_constants"] == 10
    assert held.num_bytes == sum(expected) + 10 + NCCL_BYTES
    assert held.host_bytes == host


def test_nccl_holds_at_most_a_quarter_of_a_gibibyte():
    assert NCCL_BYTES == 268_435_456


def test_parts_are_rounded_up():
    held = share(dataclasses.replace(SMALL, frozen={"weights": 1001}), several("fsdp", 4, "lora"))
    assert held.components["weights"] == 251


@pytest.mark.parametrize(
    ("on_each", "most", "needed"),
    [
        pytest.param(lambda _: 5, 1, 1, id="one suffices"),
        pytest.param(lambda n: 10 // n, 1, None, id="one is all there is"),
        pytest.param(lambda n: 10 // n, 2, 2, id="the most suffices"),
        pytest.param(lambda n: 30 // n, 5, None, id="the most does not"),
        pytest.param(lambda n: 25 // n, 5, 5, id="exactly the most"),
        pytest.param(lambda n: 5 if n == 16_384 else 6, 16_384, 16_384, id="as many as trained Llama 3.1"),
    ],
)
def test_the_number_needed_is_searched_up_to_the_most(on_each, most, needed):
    assert gpus_needed(on_each, 5, most=most) == needed
