"""How the processes of a training are started."""

import pytest

from specs import RunError
from specs.launch import device_environment, torchrun_arguments


@pytest.mark.parametrize(
    ("device", "visible"),
    [
        pytest.param("cpu", "", id="no card"),
        pytest.param("cuda:1", "1", id="one card"),
        pytest.param("cuda:0,2", "0,2", id="two cards"),
        pytest.param("mps", None, id="Apple"),
        pytest.param("xpu:0", None, id="Intel"),
    ],
)
def test_a_process_sees_its_device_alone(device: str, visible: str | None) -> None:
    found = device_environment(device, {"PATH": "/bin"})
    assert found.get("CUDA_VISIBLE_DEVICES") == visible
    assert ("CUDA_DEVICE_ORDER" in found) == device.startswith("cuda")
    assert ("MALLOC_MMAP_THRESHOLD_" in found) == (device == "cpu")
    assert found["PATH"] == "/bin"


def test_what_a_person_has_set_stays() -> None:
    own = {"OMP_WAIT_POLICY": "ACTIVE", "PYTORCH_ALLOC_CONF": "mine", "MALLOC_MMAP_THRESHOLD_": "1"}
    assert own.items() <= device_environment("cpu", own).items()


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:", "cuda:a", "cpu:0", "cuda:0;ls"])
def test_a_device_that_torch_does_not_know_is_refused(device: str) -> None:
    with pytest.raises(RunError, match="device: must be cpu, mps, cuda:N"):
        device_environment(device, {})


@pytest.mark.parametrize(
    ("processes", "nodes", "arguments"),
    [
        pytest.param(2, 1, ["--standalone", "--nproc-per-node=2"], id="one machine"),
        pytest.param(
            16,
            2,
            ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=HOST:29500", "--nproc-per-node=8"],
            id="two machines",
        ),
    ],
)
def test_processes_are_shared_out_to_machines(processes: int, nodes: int, arguments: list[str]) -> None:
    assert torchrun_arguments(processes, nodes=nodes) == ["torch.distributed.run", *arguments]


@pytest.mark.parametrize(("processes", "nodes"), [(3, 2), (1, 2), (0, 1)])
def test_processes_that_cannot_be_shared_out_evenly_are_refused(processes: int, nodes: int) -> None:
    with pytest.raises(ValueError, match=f"{processes} processes cannot be"):
        torchrun_arguments(processes, nodes=nodes)
