"""Runs that took more or less than predicted correct the next prediction, on their device with their libraries."""

import dataclasses

import pytest

from catalog import machine
from estimator.__main__ import main
from lorafit import asked, own_runs
from lorafit.predicting import predicted
from specs import MIB, FinetunePlan
from specs.paths import assets
from tests.ui.conftest import MODEL
from trainer.data.source import DataSource
from trainer.runs.contract import Place, State
from trainer.runs.store import Store
from ui.parts import text
from ui.plan import planning

NOW = {"torch": "2.13.0", "peft": "0.21.2"}
PREDICTED = 1453 * MIB  # the demo's LoRA plan


@pytest.fixture
def over(finished):
    """Return a maker of finished runs that took so many MiB more than was predicted."""
    made = finished([2.0, 1.0])

    def run(more, *, learned=0, libraries=NOW, **changes):
        estimate = {"used_bytes": PREDICTED + learned * MIB, "own_bytes": learned * MIB}
        measured = {"peak_used_bytes": PREDICTED + more * MIB}
        details = {"libraries": dict(libraries)}
        return dataclasses.replace(made, estimate=estimate, measured=measured, details=details, **changes)

    return run


def test_the_median_of_the_newest_runs_is_learned(over):
    runs = [over(more, created_at=float(at)) for at, more in enumerate((900, 31, 31, 42, 31, -49))]
    assert own_runs.learned_bytes(runs, "cpu", NOW) == 31 * MIB
    assert own_runs.learned_bytes(runs[::-1], "cpu", NOW) == 31 * MIB


def test_what_was_learned_already_is_not_learned_again(over):
    assert own_runs.learned_bytes([over(31, learned=31)], "cpu", NOW) == 31 * MIB


def test_only_finished_runs_on_the_device_with_the_same_libraries_count(over):
    others = (
        over(31, libraries=NOW | {"torch": "2.12.0"}),
        over(31, libraries={}),
        over(31, state=State.STOPPED),
        dataclasses.replace(over(31), estimate=None),
        dataclasses.replace(over(31), measured={}),
    )
    assert own_runs.learned_bytes(others, "cpu", NOW) == 0
    assert own_runs.learned_bytes([over(31)], "cuda:0", NOW) == 0


@pytest.mark.parametrize(("more", "learned"), [(5_000, 217.95), (-5_000, -217.95)])
def test_a_difference_beyond_reason_teaches_no_more_than_reason(over, more, learned):
    assert own_runs.learned_bytes([over(more)], "cpu", NOW) == pytest.approx(learned * MIB, abs=1)


def test_the_plan_adds_what_runs_here_taught_and_says_so(page, finished, runs_folder):
    before = page()
    run = finished([2.0, 1.0])
    store = Store(runs_folder)
    store.add_details(run.id, libraries=own_runs.versions())
    store.add_measured(run.id, peak_used_bytes=2 * 2**30 + 140 * MIB)
    assert own_runs.learned_bytes(own_runs.kept(), "cpu", own_runs.versions()) == 140 * MIB
    after = page()
    said = f"On this device: +{text.size(140 * MIB)}, as your runs took more than predicted."
    assert any(said in caption.value.replace("\\", "") for caption in after.caption)
    assert not any("On this device" in caption.value for caption in before.caption)
    assert after.subheader[0].value != before.subheader[0].value
    assert planning.DEMO_MODEL == MODEL


def test_the_command_lines_add_what_runs_here_taught_and_say_so(finished, runs_folder, capsys):
    device = machine.devices()[0]
    plan = FinetunePlan.for_method("lora", MODEL, dtype="float32", max_length=128)
    data, place = DataSource(path=str(assets() / "demo.jsonl")), Place(device="cpu")
    before = predicted(plan, data, place)
    run = finished([2.0, 1.0])
    store = Store(runs_folder)
    store.add_details(run.id, libraries=own_runs.versions())
    store.add_measured(run.id, peak_used_bytes=2 * 2**30 + 140 * MIB)
    after = predicted(plan, data, place)
    assert after["own_bytes"] == after["used_bytes"] - before["used_bytes"] == 140 * MIB
    assert own_runs.taught(device, own_runs.kept()).own_bytes == asked.device(None)[0].own_bytes == 140 * MIB
    arguments = ["--model", MODEL, "--method", "lora", "--dtype", "float32", "--max-length", "128"]
    assert main(arguments) == 0
    assert "On this device: +140 MiB, as your runs took more than predicted." in capsys.readouterr().out
