"""What each optimizer keeps for one tensor, in bytes rounded up to 512."""

import pytest

from estimator.replay.optimizer import optimizer_memory
from estimator.tape.tape import Resident
from specs import FinetunePlan


def tensor(elements, itemsize=4, count=1, *, trainable=True):
    return Resident(
        component="adapter", num_elements=elements, num_elements_per_rank=0, itemsize=itemsize, trainable=trainable,
        count=count,
    )  # fmt: skip


MAPS = 2 * 1024
"""bitsandbytes' two maps of 256 values in 32 bit."""


# 1,024,000 elements are 4,000 blocks of 256, each with a constant of 32 bit: 16,000 bytes, rounded up to 16,384.
@pytest.mark.parametrize(
    ("optim", "elements", "state", "paged", "step"),
    [
        pytest.param("adamw_torch", 1_024, 2 * 4_096, 0, 4_096, id="two moments, and a root"),
        pytest.param("adamw_torch_fused", 1_024, 2 * 4_096 + 512, 0, 0, id="and a counter instead"),
        pytest.param("sgd", 1_024, 0, 0, 0, id="nothing"),
        pytest.param("adafactor", 1_048_576, 2 * 4_096, 0, 4 * 4_194_304, id="a row and a column, and four copies"),
        pytest.param("lion_32bit", 1_024, 4_096, 0, 0, id="one moment"),
        pytest.param("adamw_8bit", 4_095, 2 * 16_384 + MAPS, 0, 0, id="small tensors stay in 32 bit"),
        pytest.param("adamw_8bit", 4_096, 2 * (4_096 + 512) + MAPS, 0, 0, id="8 bit from 4,096 elements on"),
        pytest.param("lion_8bit", 1_024_000, 1_024_000 + 16_384 + MAPS, 0, 0, id="one moment of 8 bit"),
        pytest.param("paged_adamw_32bit", 99_999, 2 * 400_384, 0, 0, id="small tensors are not paged"),
        pytest.param("paged_adamw_32bit", 100_000, 0, 2 * 400_384, 0, id="paged from 100,000 elements on"),
        pytest.param("paged_adamw_8bit", 1_024_000, 2 * 16_384 + MAPS, 2 * 1_024_000, 0, id="constants are not paged"),
    ],
)
def test_an_optimizer_takes_so_much_for_one_tensor(optim, elements, state, paged, step):
    plan = FinetunePlan.for_method("lora", "m", optim=optim)
    found = optimizer_memory(plan, [tensor(elements), tensor(elements, trainable=False)])
    assert (found.state_bytes, found.paged_bytes, found.step_bytes) == (state, paged, step)


def test_every_tensor_of_a_kind_counts():
    plan = FinetunePlan.for_method("lora", "m", optim="paged_adamw_32bit")
    found = optimizer_memory(plan, [tensor(1_024, count=3), tensor(128_000, count=2)])
    assert (found.state_bytes, found.paged_bytes) == (3 * 2 * 4_096, 2 * 2 * 512_000)


def test_roots_are_there_for_one_dtype_at_a_time():
    plan = FinetunePlan.for_method("lora", "m", optim="adamw_torch")
    found = optimizer_memory(plan, [tensor(1_024, count=2), tensor(1_024, itemsize=2, count=3)])
    assert found.step_bytes == max(2 * 4_096, 3 * 2_048)


def test_nothing_trained_takes_nothing():
    plan = FinetunePlan.for_method("lora", "m", optim="adafactor")
    assert optimizer_memory(plan, []).step_bytes == 0
