"""Published runs: the shares are what a fit to them gives, and the errors that are stated are those it leaves."""

import functools
from dataclasses import asdict, replace

import pytest

from catalog import gpus, models
from estimator.accuracy.timing import timed_runs
from estimator.duration import fitting, published
from estimator.duration.operations import Kind, Operation, Pass, operations
from estimator.duration.step import seconds_by_kind
from specs import FinetunePlan
from specs.paths import assets

PREPARED = FinetunePlan.for_method("qlora", "m", dtype="bfloat16", prepare_kbit=True, bf16=False, fp16=False)
"""QLoRA as ``prepare_model_for_kbit_training`` leaves it, without mixed precision: what flows is in 32 bit."""


CARDS = (
    "Tesla T4",
    "RTX 2080 Ti",
    "RTX 3090",
    "RTX A6000",
    "L40",
    "L40S",
    "RTX 4090",
    "RTX 5090",
    "A100 SXM4 80",
    "H100 SXM5",
)


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


def test_the_errors_keep_what_they_should_on_every_card():
    assert fit().error <= 0.10
    assert max(fit().left_out.values()) <= 0.20, fit().left_out


def test_a_card_that_adds_up_at_half_rate_reaches_more_of_its_rate():
    halved = {name for name in CARDS if published.adds_at_half_rate(gpus.find(name))}
    assert halved == {"RTX 2080 Ti", "RTX 3090", "L40", "RTX 4090", "RTX 5090"}
    assert published.SHARES.matmul < published.SHARES.matmul * published.SHARES.halved < 1.1


def test_attention_takes_longer_before_flash_attention_and_in_32_bit():
    (passed,) = (
        entry for entry in operations(model("meta-llama/Llama-3.2-3B"), PREPARED, batch=1, length=2048)
        if (entry.kind, entry.during) == (Kind.ATTENTION, Pass.FORWARD)
    )  # fmt: skip
    curves = published.published_curves(gpus.find("RTX A6000"))
    wide = seconds_by_kind([passed], curves, PREPARED)[Kind.ATTENTION]
    mixed = replace(PREPARED, bf16=True)
    (usual,) = (
        entry for entry in operations(model("meta-llama/Llama-3.2-3B"), mixed, batch=1, length=2048)
        if (entry.kind, entry.during) == (Kind.ATTENTION, Pass.FORWARD)
    )  # fmt: skip
    assert wide == pytest.approx(4 * seconds_by_kind([usual], curves, mixed)[Kind.ATTENTION], rel=0.01), "154.8 / 38.7"
    t4 = published.published_curves(gpus.find("Tesla T4"))
    share = {name: c.attention_flops / c.matmul["float16"][-1][1] for name, c in (("A6000", curves), ("T4", t4))}
    assert share["T4"] == pytest.approx(share["A6000"] / 2)


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
