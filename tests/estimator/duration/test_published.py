"""Published runs: the shares are what a fit to them gives, and the errors that are stated are those it leaves."""

import functools
from dataclasses import asdict, replace

import pytest

from catalog import gpus, models
from estimator.accuracy.timing import timed_runs
from estimator.duration import fitting, published
from estimator.duration.operations import Kind, Operation, Pass
from estimator.duration.step import seconds_by_kind
from specs import FinetunePlan
from specs.paths import assets


def model(name):
    path = assets() / "measured" / name
    return models.find(str(path) if path.is_file() else name)


@functools.cache
def runs():
    return timed_runs((assets() / "speed.csv").read_text(encoding="utf-8"), model=model, gpu=gpus.find)


@functools.cache
def fit():
    return fitting.fitted(runs())


def test_the_shares_are_those_that_fit_the_published_runs():
    assert asdict(fit().shares) == pytest.approx(asdict(published.SHARES), rel=0.01)
    assert fit().factors == pytest.approx(published.FACTORS, rel=0.01)


def test_the_errors_are_those_that_the_fit_leaves():
    assert fit().error == pytest.approx(published.ERROR_WITH_RUNS, abs=0.005)
    assert fit().error_left_out == pytest.approx(published.ERROR_LEFT_OUT, abs=0.005)


@pytest.mark.parametrize("number", range(49))
def test_no_published_run_is_missed_by_half(number):
    run = runs()[number]
    found = run.predicted(published.SHARES, factor=published.FACTORS[run.gpu.name])
    assert fitting.error_of(run, found) < 0.5, run.source
    assert run.source.startswith("github ")


def test_copies_from_ram_take_as_long_as_the_lanes_of_the_card_need():
    wide, narrow, unknown = (
        published.to_ram(replace(gpus.find("RTX 3060 12"), bus=bus)) for bus in ("PCIe 4.0 x16", "PCIe 4.0 x8", "")
    )
    assert wide == 2 * narrow == pytest.approx(24.3e9, rel=0.01)
    assert unknown == pytest.approx(12.15e9, rel=0.01), "as the P100 whose copies were measured"
    plan = FinetunePlan.for_method("qlora", "m", layer_offloading=True)
    copied = [Operation(kind=Kind.TRANSFER, during=Pass.FORWARD, moved_bytes=24.3e9)]
    curves = published.published_curves(gpus.find("RTX 4090"))
    assert seconds_by_kind(copied, curves, plan)[Kind.TRANSFER] == pytest.approx(1, rel=0.01)
