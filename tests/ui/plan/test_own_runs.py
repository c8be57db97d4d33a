"""Runs that took more or less than predicted correct the next prediction, on their device with their libraries."""

import dataclasses

import pytest

from lorafit import own_runs
from specs import MIB
from tests.ui.conftest import MODEL
from trainer.runs.contract import State
from trainer.runs.store import Store
from ui.parts import text
from ui.plan import planning
from ui.runs.facts import run_data

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
    store.add_details(run.id, libraries=run_data.versions())
    store.add_measured(run.id, peak_used_bytes=2 * 2**30 + 140 * MIB)
    asked = run_data.learned_bytes(run_data.past("cpu"), "cpu")
    assert asked == 140 * MIB
    after = page()
    said = f"On this device: +{text.size(140 * MIB)}, as your runs took more than predicted."
    assert any(said in caption.value.replace("\\", "") for caption in after.caption)
    assert not any("On this device" in caption.value for caption in before.caption)
    assert after.subheader[0].value != before.subheader[0].value
    assert planning.DEMO_MODEL == MODEL
