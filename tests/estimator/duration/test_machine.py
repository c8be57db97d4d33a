"""This machine's speed: kept by device and libraries, damaged files count as none, finished runs are learned from."""

import copy
import functools
import json
import math
import operator
import threading
import time

import numpy as np
import pytest

from estimator.__main__ import main
from estimator.duration import machine, measured
from estimator.duration.measured import curves_from
from specs.curves import MEASURED_STEPS
from tests.advisor.pricing import processor

ANSWER = {
    "matmul": {"float32": [[1, 8e9], [16, 7.5e10], [160, 1.5e11], [2048, 1.7e11]]},
    "moved": 1.07e10,
    "adapter": 6.7e9,
    "attention": 1.35e11,
    "expanded": 4.8e9,
    "call_seconds": 2.3e-6,
    "steps": {"lora": [0.06, 0.27], "qlora": [0.13, 0.34], "full": [0.065, 0.3]},
    "seconds_to_start": 4.4,
    "libraries": {},
}
"""Two cores of an EPYC, 2026-11-26."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFIT_CACHE", str(tmp_path))
    monkeypatch.setenv("LORAFIT_CALIBRATE", "on")
    return tmp_path


def keep(text):
    file = machine._file(processor())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{machine._checksum(text)}\n{text}")
    machine._read.cache_clear()
    return file


def changed(*path, value):
    """Return the answer with one figure replaced."""
    answer = copy.deepcopy(ANSWER)
    *before, last = path
    functools.reduce(operator.getitem, before, answer)[last] = value
    return json.dumps(answer)


@pytest.mark.usefixtures("folder")
def test_a_measurement_is_found_again_and_a_damaged_one_counts_as_none():
    assert machine.kept(processor(), "cpu") is None
    file = keep(json.dumps(ANSWER))
    assert machine.with_curves(processor(), "cpu").measured == curves_from(ANSWER, "cpu")
    file.write_text(file.read_text().replace("17000", "18000"))
    machine._read.cache_clear()
    assert "18000" in file.read_text()
    assert machine.kept(processor(), "cpu") is None


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "value", [0, -1.0, 1e-300, 1e308, math.nan, math.inf, 10**400, "1e9", True, None, [], {}], ids=str
)
@pytest.mark.parametrize(
    "path",
    [
        ("matmul",),
        ("matmul", "float32"),
        ("matmul", "float32", 1),
        ("matmul", "float32", 0, 0),
        ("matmul", "float32", 0, 1),
        ("moved",),
        ("adapter",),
        ("attention",),
        ("expanded",),
        ("call_seconds",),
        ("steps",),
        ("steps", "lora"),
        ("steps", "lora", 0),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_a_figure_that_no_device_has_counts_as_not_measured(path, value, capfd):
    keep(changed(*path, value=value))
    assert machine.kept(processor(), "cpu") is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="cut off"),
        pytest.param("[" * 100_000, id="nested too deeply"),
        pytest.param("null", id="no object"),
        pytest.param(changed("seconds_to_start", value=-1), id="a start before now"),
        pytest.param(changed("matmul", "float32", value=[[16, 1e9], [1, 1e9]]), id="points that fall"),
        pytest.param(changed("matmul", "float32", value=[[16, 1e9], [16, 2e9]]), id="two speeds of one size"),
        pytest.param(changed("matmul", value={"bfloat16": [[1, 1e9]]}), id="not in the dtype of the steps"),
        pytest.param(changed("steps", "magic", value=[1.0, 1.0]), id="an unknown method"),
    ],
)
def test_an_answer_that_makes_no_curves_counts_as_not_measured(text, capfd):
    keep(text)
    assert machine.kept(processor(), "cpu") is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("folder")
def test_a_card_that_is_elsewhere_keeps_its_published_speed():
    keep(json.dumps(ANSWER))
    assert machine.with_curves(processor(), None).measured is None


def test_the_steps_say_what_adapters_and_4_bit_weights_cost():
    steps = {
        "lora": [0.234, 0.743],
        "qlora": [0.660, 1.188],
        "full": [0.324, 0.841],
    }  # two cores of an EPYC without AVX512, 2026-11-27
    rates = {
        "float32": [
            [1, 3440000000.0],
            [16, 22000000000.0],
            [64, 57700000000.0],
            [160, 84100000000.0],
            [512, 78800000000.0],
            [2048, 93800000000.0],
        ]
    }
    single = {
        "matmul": rates,
        "moved": 5310000000.0,
        "adapter": 5930000000.0,
        "attention": 57100000000.0,
        "expanded": 1540000000.0,
        "call_seconds": 5.14e-06,
    }
    found = {**ANSWER, **single, "steps": steps}
    curves = curves_from(found, "cpu")
    told = {name: [sum(measured._work(curves, name, *size)) for size in MEASURED_STEPS] for name in steps}
    for name, times in steps.items():
        assert told[name] == pytest.approx(times, rel=0.08), name
    weights = 12 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
    more = (0.5 + 1 / 16 + 4) * 2 * weights / curves.expanded  # forward and backward
    assert more == pytest.approx(steps["qlora"][0] - steps["lora"][0], rel=0.05)


def test_a_figure_below_its_least_leaves_the_others_to_fit():
    shares = np.array([[1.0, 0.0, 0.0, 0.1], [0.5, 0.5, 0.0, 0.1], [0.5, 0.0, 0.5, 0.1]])
    assert measured._fitted(shares, np.array([0.5, 0.5, 0.5, 4.0])) == pytest.approx([0.6, 0.6, 0.6, 4.0])
    assert measured._fitted(shares[:2], np.array([0.5, 0.5, 0.5, 1.0]))[2] == pytest.approx(0.9)  # no such work


def test_slower_whole_steps_make_slower_rates():
    slower = {**ANSWER, "steps": {name: [2 * seconds for seconds in times] for name, times in ANSWER["steps"].items()}}
    one, two = curves_from(ANSWER, "cpu"), curves_from(slower, "cpu")
    assert two.matmul_flops(160, "float32") < one.matmul_flops(160, "float32")


@pytest.mark.parametrize(
    ("taken", "factor"),
    [
        pytest.param({"worked_per_step": 1.2, "seconds_per_step": 9.0}, 1.2, id="on a CPU its own work counts"),
        pytest.param({"worked_per_step": 50.0}, 2.0, id="a fault is no speed"),
        pytest.param({}, 1.0, id="nothing measured"),
        *(pytest.param({"worked_per_step": bad}, 1.0, id=f"{bad} s") for bad in (0, -1.0, math.nan, math.inf, "2")),
    ],
)
def test_finished_runs_are_learned_from(taken, factor):
    forecast = {"seconds_per_step": 1.0, "basis": machine.MEASURED}
    assert machine.learned([(forecast, taken)], on_cpu=True) == pytest.approx(factor)


def test_a_correction_is_not_made_twice():
    forecast = {"seconds_per_step": 1.2, "basis": machine.MEASURED, "corrected_by": 1.2}
    assert machine.learned([(forecast, {"worked_per_step": 1.2})], on_cpu=True) == pytest.approx(1.2)


def test_corrected_curves_take_that_much_longer():
    curves = curves_from(ANSWER, "cpu")
    slower = curves.corrected(1.5)
    assert slower.matmul_flops(160, "float32") == pytest.approx(curves.matmul_flops(160, "float32") / 1.5)
    assert slower.call_seconds == pytest.approx(1.5 * curves.call_seconds)
    assert slower.corrected_by == 1.5


@pytest.mark.usefixtures("folder")
def test_what_a_killed_measurement_was_writing_counts_for_nothing_and_is_written_over():
    part = machine._file(processor()).with_suffix(".part")
    part.parent.mkdir()
    part.write_text(json.dumps(ANSWER)[:40])
    assert machine.kept(processor(), "cpu") is None
    with machine._turn(processor(), pytest.fail) as writable:
        assert writable == part
    assert not part.exists()


@pytest.mark.usefixtures("folder")
def test_two_measurements_at_once_take_turns():
    ends, waits, order = threading.Event(), threading.Event(), []

    def second():
        with machine._turn(processor(), waits.set):
            order.append("second")

    def first():
        with machine._turn(processor(), pytest.fail):
            ends.wait(10)
            order.append("first")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    while not machine._file(processor()).with_suffix(".part").exists():
        time.sleep(0.01)
    threads[1].start()
    assert waits.wait(10)
    ends.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "second"]


def test_a_cache_folder_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    file = tmp_path / "no folder"
    file.touch()
    monkeypatch.setenv("LORAFIT_CACHE", str(file))
    began = time.monotonic()
    assert main(["calibrate"]) == 2
    assert time.monotonic() - began < 5
    assert capsys.readouterr().err.endswith(
        "no folder/speed: lies in something that is not a folder. Name another place.\n"
    )
