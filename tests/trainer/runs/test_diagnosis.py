import dataclasses
import math
import random
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.runs.contract import Metric
from trainer.runs.diagnosis import diagnoses, perplexity


def curve(loss, *, steps=80, norm=lambda _: 1.0, rate=lambda _: 1e-4, held_out=None):
    return [
        Metric(
            step=step,
            loss=loss(step),
            grad_norm=norm(step),
            learning_rate=rate(step),
            eval_loss=held_out(step) if held_out and step % 10 == 0 else None,
        )
        for step in range(1, steps + 1)
    ]


def falling(step):
    return 1.0 + 3.0 * math.exp(-step / 30)


NOISE = random.Random(0)  # noqa: S311 - no secret
NOISES = [NOISE.uniform(0.2, 3.0) for _ in range(200)]


@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        pytest.param(curve(falling), [], id="a good run"),
        pytest.param([], [], id="nothing yet"),
        pytest.param(curve(lambda _: 9.0, steps=10), [], id="too early to say"),
        pytest.param(
            curve(lambda step: falling(step) if step < 50 else 0.2 * step), ["learning rate too high"], id="runs away"
        ),
        pytest.param(
            curve(falling, norm=lambda step: 50.0 if step == 75 else 1.0),
            ["exploding gradients"],
            id="one huge gradient",
        ),
        pytest.param(
            curve(falling, norm=lambda step: 50.0 if step == 5 else 1.0), [], id="a huge gradient long ago is past"
        ),
        pytest.param(curve(falling, held_out=lambda step: 1 + step / 50), ["overfitting"], id="held-out loss rises"),
        pytest.param(curve(falling, held_out=lambda step: 3 - step / 50), [], id="held-out loss falls"),
        pytest.param(
            curve([0.0, 3.2, 3.4, 5.1, 9.7, 21.0, 42.8].__getitem__, steps=6, norm=lambda step: 10.0**step),
            ["learning rate too high"],
            id="runs away within six steps, and its gradients only follow",
        ),
        pytest.param(
            curve(lambda step: 3.2 + 2.0 * step, steps=25, norm=lambda step: 500.0 if step == 25 else 1.0),
            ["learning rate too high"],
            id="runs away within 25 steps",
        ),
        pytest.param(curve(lambda step: [1.0, 2.2][step % 2], steps=12), [], id="rows that differ are no divergence"),
        pytest.param(curve(lambda step: NOISES[step]), ["oscillation"], id="swings"),
        pytest.param(curve(lambda _: 2.5), ["learning rate too low"], id="stands still from the start"),
        pytest.param(
            curve(lambda _: 2.5, rate=lambda step: 1e-4 * (1 - step / 81)), [], id="still because the rate is spent"
        ),
    ],
)
def test_curves_are_put_in_words(metrics, names):
    found = diagnoses(metrics, "lora")
    assert [entry.name for entry in found] == names
    assert all(entry.sentence.endswith(".") and entry.rule and entry.advice for entry in found)


@given(losses=st.lists(st.floats(0, 50), max_size=120))
def test_no_curve_breaks_the_diagnosis(losses):
    metrics = [Metric(step=step, loss=loss, grad_norm=loss) for step, loss in enumerate(losses, start=1)]
    assert len(diagnoses(metrics, "lora")) <= 6


def test_a_loss_that_fell_and_stands_still_is_a_plateau():
    (found,) = diagnoses(curve(lambda step: 3.0 if step < 20 else 1.5, steps=100), "lora")
    assert (found.name, found.factors) == ("plateau", {})
    assert "Stop here" in found.advice


@pytest.mark.parametrize(
    ("metrics", "field", "before", "after"),
    [
        pytest.param(curve(lambda step: falling(step) if step < 50 else 0.2 * step), "learning_rate", 2e-4, 6.7e-5),
        pytest.param(curve(lambda _: 3.0), "learning_rate", 2e-4, 6e-4),
        pytest.param(curve(lambda step: NOISES[step]), "gradient_accumulation_steps", 4, 8),
        pytest.param(curve(falling, norm=lambda s: 50.0 if s == 75 else 1.0), "max_grad_norm", 1.0, 0.3),
    ],
    ids=["too high", "too low", "oscillation", "exploding"],
)
def test_a_remedy_that_is_a_number_changes_the_plan(plan_of, metrics, field, before, after):
    plan = plan_of(**{field: before})
    (found,) = diagnoses(metrics, "lora")
    assert found.changed(plan) == dataclasses.replace(plan, **{field: after})
    assert found.remedy(plan) == f"{field} {before:g} -> {after:g}"


def test_five_thousand_steps_are_judged_within_a_tick():
    metrics = curve(falling, steps=5000, held_out=lambda step: 3 - step / 5000)
    diagnoses(metrics, "lora")
    seconds = min(timeit.repeat(lambda: diagnoses(metrics, "lora"), number=1, repeat=5))
    assert seconds < 0.1


def test_perplexity_is_the_exponential_of_the_loss():
    assert perplexity(math.log(8)) == pytest.approx(8)
    assert math.isfinite(perplexity(1e6))
