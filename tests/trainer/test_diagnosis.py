import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.contract import Metric
from trainer.diagnosis import diagnoses, perplexity


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
        pytest.param(curve(lambda step: falling(step) if step < 50 else 0.2 * step), ["diverging"], id="runs away"),
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
        pytest.param(curve(lambda step: NOISES[step]), ["oscillation"], id="swings"),
        pytest.param(curve(lambda _: 2.5), ["plateau"], id="stands still"),
        pytest.param(
            curve(lambda _: 2.5, rate=lambda step: 1e-4 * (1 - step / 81)), [], id="still because the rate is spent"
        ),
    ],
)
def test_curves_are_put_in_words(metrics, names):
    found = diagnoses(metrics)
    assert [entry.name for entry in found] == names
    assert all(entry.sentence.endswith(".") and entry.rule and entry.advice for entry in found)


@given(losses=st.lists(st.floats(0, 50), max_size=120))
def test_no_curve_breaks_the_diagnosis(losses):
    metrics = [Metric(step=step, loss=loss, grad_norm=loss) for step, loss in enumerate(losses, start=1)]
    assert len(diagnoses(metrics)) <= 5


def test_a_plateau_after_learning_asks_to_stop_and_one_before_to_raise_the_rate():
    after = diagnoses(curve(lambda step: 3.0 if step < 20 else 1.5, steps=100))
    before = diagnoses(curve(lambda _: 3.0))
    assert "Stop here" in after[0].advice
    assert "Raise learning_rate" in before[0].advice


def test_perplexity_is_the_exponential_of_the_loss():
    assert perplexity(math.log(8)) == pytest.approx(8)
    assert math.isfinite(perplexity(1e6))
