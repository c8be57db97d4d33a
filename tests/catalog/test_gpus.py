import json
import subprocess
import sys
from pathlib import Path

import pytest

from catalog import gpus, machine
from catalog.__main__ import main
from specs import GIB, CatalogError
from specs.paths import assets, cache, demo_model, runs

ENTRIES = json.loads((assets() / "gpus.json").read_text(encoding="utf-8"))["gpus"]


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry["name"]) for entry in ENTRIES])
def test_every_card_has_facts_with_sources(entry):
    spec = gpus.find(entry["name"])
    assert spec.name == entry["name"]
    assert 0.6 * spec.memory_bytes < spec.usable_bytes <= spec.memory_bytes
    assert spec.form in {"desktop", "laptop", "workstation", "datacenter", "other"}
    assert "http" in spec.source
    assert entry["usable_source"] in spec.source
    assert (spec.backend == "cuda") == (spec.compute_capability is not None)
    assert ("half_tflops" in entry) == ("tflops_source" in entry) == ("tflops_kind" in entry)
    if spec.compute_capability is not None:
        assert spec.bf16 == (spec.compute_capability >= (8, 0))
    elif spec.backend in {"rocm", "xpu"}:
        assert spec.bf16 == ("bf16_source" in entry)


def test_there_are_a_hundred_and_twenty_cards_from_gtx_1060_to_b200():
    assert len(gpus.names()) == len(set(gpus.names())) >= 120
    for name in ("GTX 1060", "T4", "A10G", "L4", "L40S", "H200", "B200", "MI300X", "Apple unified memory 64 GB"):
        assert gpus.find(name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param("4090", "GeForce RTX 4090", id="number, not the laptop's"),
        pytest.param("nvidia geforce rtx 4090", "GeForce RTX 4090", id="with the maker"),
        pytest.param("rtx 3060 12gb", "GeForce RTX 3060 12 GB", id="identified by memory"),
        pytest.param("3060 12", "GeForce RTX 3060 12 GB", id="identified by memory without its unit"),
        pytest.param("A100 80GB", "A100 PCIe 80 GB", id="same memory: the one with less bandwidth"),
        pytest.param("t4", "Tesla T4", id="two letters"),
    ],
)
def test_a_card_is_found_by(text, name):
    assert gpus.find(text).name == name


@pytest.mark.parametrize(
    ("text", "part"),
    [
        pytest.param("RTX 3060", "several cards .*RTX 3060 8 GB, GeForce RTX 3060 12 GB", id="two of one name"),
        pytest.param("RTX 4091", "nearest: .*RTX 4090", id="near a name"),
        pytest.param("", "is not in the catalog", id="nothing"),
        pytest.param("0 GB", "must lie between", id="no memory"),
        pytest.param("99999gb", "must lie between", id="impossible memory"),
    ],
)
def test_a_name_of_no_card_or_several_is_refused_with_a_way_out(text, part):
    with pytest.raises(CatalogError, match=part):
        gpus.find(text)


@pytest.mark.parametrize("gib", [float("nan"), float("inf"), -1, 0])
def test_an_impossible_memory_is_refused(gib):
    with pytest.raises(CatalogError, match="GPU memory"):
        gpus.of_memory(gib)


def test_a_card_of_some_memory_keeps_a_reserve():
    card = gpus.find("24GB")
    assert (card.memory_bytes, card.usable_bytes) == (24 * GIB, 24_867_860_644)


@pytest.mark.parametrize(
    ("driver_name", "mib", "name"),
    [
        pytest.param("NVIDIA GeForce RTX 4090", 24_564, "GeForce RTX 4090", id="desktop"),
        pytest.param("NVIDIA GeForce RTX 4060 Laptop GPU", 8_188, "GeForce RTX 4060 Laptop", id="laptop"),
        pytest.param("NVIDIA GeForce RTX 3060", 12_288, "GeForce RTX 3060 12 GB", id="memory decides: 12"),
        pytest.param("NVIDIA GeForce RTX 3060", 8_192, "GeForce RTX 3060 8 GB", id="memory decides: 8"),
        pytest.param("NVIDIA A100-SXM4-80GB", 81_920, "A100 SXM4 80 GB", id="data centre"),
        pytest.param("NVIDIA H100 80GB HBM3", 81_559, "H100 SXM5 80 GB", id="the catalog's own list"),
        pytest.param("Tesla T4", 15_360, "Tesla T4", id="the maker left out"),
    ],
)
def test_the_driver_names_a_card_of_the_catalog(driver_name, mib, name):
    spec = machine.detected(driver_name, mib * 2**20, (8, 0))
    assert spec.name == name
    assert spec.usable_bytes <= mib * 2**20


def test_an_unknown_card_is_taken_as_the_driver_reports_it():
    spec = machine.detected("NVIDIA Future 9", 100 * GIB, (13, 0))
    assert (spec.name, spec.memory_bytes, spec.bf16) == ("Future 9", 100 * GIB, True)
    assert spec.usable_bytes == round(98 * GIB)


def test_this_machine_has_a_device_with_free_memory():
    for device in machine.devices():
        assert 0 < device.free_bytes <= device.total_bytes
        assert device.gpu.name


def test_a_cpu_without_cpuinfo_still_has_a_name():
    name, flags = machine._cpuinfo(Path("/no/such/file"))
    assert name
    assert not flags


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        pytest.param("max\n", None, id="no limit"),
        pytest.param("25769803776\n", 25_769_803_776, id="24 GiB"),
        pytest.param("x", None, id="unreadable"),
    ],
)
def test_a_container_has_the_memory_of_its_limit(tmp_path, text, limit):
    (tmp_path / "memory.max").write_text(text)
    assert machine._container_limit(tmp_path / "memory.max") == limit


@pytest.mark.parametrize("what", ["models", "gpus", "machine"])
def test_the_command_line_lists_as_json(what, capsys):
    assert main([what, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main([what]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("arguments", [["gpus", "RTX 4091"], ["models", "lama"]])
def test_the_command_line_refuses_with_one_sentence_and_status_two(arguments, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1


def test_the_catalog_loads_no_training_stack_and_no_hub_client():
    names = ["torch", "transformers", "huggingface_hub", "streamlit", "numpy"]
    code = f"import sys, catalog.models, catalog.gpus, catalog.machine; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_folders_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAFIT_RUNS", str(tmp_path / "r"))
    monkeypatch.setenv("LORAFIT_CACHE", str(tmp_path / "c"))
    assert runs() == (tmp_path / "r").resolve()
    assert demo_model().is_relative_to(cache())
    monkeypatch.setenv("LORAFIT_CACHE", " ")
    assert cache() == Path.home() / ".cache" / "lorafit"
    monkeypatch.delenv("LORAFIT_RUNS")
    assert runs().name == "runs"
    assert runs().parent == assets().parent


def test_any_card_of_a_size_is_as_fast_as_the_middle_of_the_cards_that_have_it():
    spec = gpus.find("24 GiB")
    slowest, fastest = gpus.find("RTX 5090 Laptop"), gpus.find("RTX 4090")
    assert spec.half_tflops == pytest.approx((slowest.half_tflops * fastest.half_tflops) ** 0.5)
    assert spec.half_tflops * spec.throughput_spread == pytest.approx(fastest.half_tflops)
    assert "L4" in spec.source
    assert gpus.find("RTX 4090").throughput_spread == 1


def test_this_machines_cpu_has_a_throughput_or_none_if_the_clock_is_unknown():
    spec = machine.processor().gpu
    assert spec.float32_tflops is None or 0.001 < spec.float32_tflops < 100
    assert spec.half_tflops is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param("4090", "GeForce RTX 4090", id="a number"),
        pytest.param("rtx4090", "GeForce RTX 4090", id="without a space"),
        pytest.param("RTX 4090", "GeForce RTX 4090", id="with one"),
        pytest.param("geforce rtx4090", "GeForce RTX 4090", id="with the series"),
    ],
)
def test_a_card_is_found_by_what_people_call_it(text, name):
    assert gpus.find(text).name == name


@pytest.mark.parametrize("text", ["3060", "rtx3060", "A100"])
def test_variants_are_offered_where_a_name_does_not_decide(text):
    meant = gpus.matching(text)
    assert len(meant) > 1
    with pytest.raises(CatalogError, match="matches several cards"):
        gpus.find(text)
    assert all(gpus.find(name).name == name for name in meant)


def test_a_number_that_is_no_card_asks_for_its_unit():
    with pytest.raises(CatalogError, match=r'Write "24 GB" for any card of that size'):
        gpus.find("24")
