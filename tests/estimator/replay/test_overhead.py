import pytest

from catalog import gpus
from estimator.replay.overhead import READINGS, context, context_bytes, cublas_workspace_bytes
from specs import GIB, MIB, GpuSpec


@pytest.mark.parametrize(
    "reading", [pytest.param(reading, id=f"{reading.card} {reading.num_bytes}") for reading in READINGS]
)
def test_every_reading_is_a_context_with_a_source(reading):
    assert 100 * MIB < reading.num_bytes < GIB
    assert len(reading.source) > 30
    known = [gpus.find(name) for name in gpus.names() if name == reading.card]
    assert all(spec.compute_capability == reading.compute_capability for spec in known)
    assert all(spec.memory_bytes == reading.memory_gib * GIB for spec in known)


@pytest.mark.parametrize(
    ("card", "mib", "confidence"),
    [
        pytest.param("Tesla T4", 141, "high", id="measured with nvidia-smi"),
        pytest.param("GeForce RTX 4090", 439, "medium", id="read from a message on this card"),
        pytest.param("GeForce RTX 3090", 420, "medium", id="the largest of several readings"),
        pytest.param("GeForce RTX 4080", 439, "low", id="the nearest of its generation"),
        pytest.param("GeForce RTX 4060", 161, "low", id="a small card of its generation"),
        pytest.param("Instinct MI300X", 439, "low", id="no card of its kind was read"),
        # (31.72 - 29.66) x 1,024 - 1,720 and so on, the largest of each card.
        pytest.param("Tesla V100 SXM2 32 GB", 399, "medium", id="V100"),
        pytest.param("A100 SXM4 40 GB", 491, "medium", id="A100 40 GB"),
        pytest.param("A100 SXM4 80 GB", 523, "medium", id="A100 80 GB"),
        pytest.param("GeForce RTX 3060 12 GB", 250, "medium", id="3060"),
        pytest.param("RTX A6000", 327, "medium", id="A6000"),
        pytest.param("L4", 264, "medium", id="L4"),
        pytest.param("L40S", 524, "medium", id="L40S"),
        pytest.param("H100 SXM5 80 GB", 749, "medium", id="H100"),
        pytest.param("H200 SXM 141 GB", 670, "medium", id="H200"),
        pytest.param("B200", 712, "medium", id="B200"),
        pytest.param("GeForce RTX 5090", 499, "medium", id="5090"),
        pytest.param("GeForce GTX 1080 Ti", 118, "low", id="Pascal"),
    ],
)
def test_the_context_follows_from_the_card(card, mib, confidence):
    found = context(gpus.find(card))
    assert (round(found.num_bytes / MIB), found.confidence) == (mib, confidence)


@pytest.mark.parametrize("name", gpus.names())
def test_every_card_has_a_context_with_a_source(name):
    found = context(gpus.find(name))
    assert 100 * MIB < found.num_bytes < GIB
    assert found.source


def test_a_cpu_has_neither_context_nor_workspace():
    processor = GpuSpec(name="CPU", backend="cpu", memory_bytes=GIB, usable_bytes=GIB)
    assert (context_bytes(processor), cublas_workspace_bytes(processor)) == (0, 0)


@pytest.mark.parametrize(
    ("card", "num_bytes"),
    [
        pytest.param("Tesla T4", 8_519_680, id="before Hopper"),
        pytest.param("H100 SXM5 80 GB", 32 * MIB, id="Hopper"),
        pytest.param("Instinct MI300X", 128 * MIB, id="CDNA 3"),
        pytest.param("Apple unified memory 64 GB", 0, id="no cuBLAS"),
    ],
)
def test_the_workspace_follows_from_the_generation(card, num_bytes):
    assert cublas_workspace_bytes(gpus.find(card)) == num_bytes
