"""Verdicts: what chance explains is no difference, and a score that got worse takes a better loss back."""

import numpy as np
import pytest

from trainer.results import judgement
from trainer.results.judgement import FEWEST_ROWS, losses, scores, verdict

RNG = np.random.default_rng(1)
NOISE = RNG.normal(0, 1, 40)


def loss_rows(change, *, number=40, tokens=10):
    """Rows whose loss changes by so much a token, each with noise of its own."""
    return [(20.0, 20.0 + tokens * change + NOISE[row] * 0.5, tokens) for row in range(number)]


def judged(*found):
    return verdict(found, basis="rows that were not learned", of=50)


@pytest.mark.parametrize(
    ("change", "better", "worse", "opening"),
    [
        pytest.param(-0.3, True, False, "Better than the base model, on 40 of 50 rows", id="lower"),
        pytest.param(0.3, False, True, "Worse than the base model", id="higher"),
        pytest.param(0.0, False, False, "No better than the base model", id="noise alone"),
    ],
)
def test_a_loss_decides_where_chance_does_not_explain_it(change, better, worse, opening):
    found = judged(losses("loss", "Loss", loss_rows(change)))
    assert (found["better"], found["worse"]) == (better, worse)
    assert found["sentence"].startswith(opening)


def test_the_loss_of_a_token_counts_long_rows_more():
    found = losses("loss", "Loss", [(10.0, 5.0, 10), (10.0, 30.0, 90)] * 3)
    assert found.base == pytest.approx(20 / 100)
    assert found.tuned == pytest.approx(35 / 100)
    assert found.low <= 0.15 <= found.high


def test_a_perplexity_is_exp_of_the_loss_of_a_token():
    sentence = judged(losses("loss", "Loss", [(np.log(8) * 10, np.log(4) * 10, 10)] * 8))["sentence"]
    assert "perplexity 8 → 4 (p = 0.0078)" in sentence  # all 8 the same way: 2 / 2^8


def test_right_and_wrong_are_compared_by_the_rows_that_changed():
    found = scores("exact_match", "Exact match", [0] * 9 + [1] + [1] * 10, [1] * 9 + [0] + [1] * 10)
    assert found.p == pytest.approx(2 * (1 + 10) / 2**10)  # 9 of 10 changed rows were won
    assert "exact match 11 → 19 of 20" in judged(found)["sentence"]


def test_a_score_that_got_worse_takes_a_lower_loss_back():
    lost = scores("exact_match", "Exact match", [1] * 12 + [0] * 8, [0] * 20)
    found = judged(losses("loss", "Loss", loss_rows(-0.3)), lost)
    assert not found["better"]
    assert found["worse"]


def test_a_score_that_got_better_is_enough_where_the_loss_did_not_change():
    won = scores("exact_match", "Exact match", [0] * 20, [1] * 12 + [0] * 8)
    assert judged(losses("loss", "Loss", loss_rows(0.0)), won)["better"]
    assert not judged(losses("loss", "Loss", loss_rows(0.3)), won)["better"]


def test_few_rows_decide_nothing():
    few = judged(losses("loss", "Loss", loss_rows(-1.0, number=FEWEST_ROWS - 1)))
    assert not few["better"]
    assert few["sentence"].startswith("Too few rows to tell, 6 are the least")
    assert judged(losses("loss", "Loss", loss_rows(-1.0, number=FEWEST_ROWS)))["better"]


def test_one_row_tells_nothing():
    found = judged(losses("loss", "Loss", [(10.0, 5.0, 10)]))
    assert not found["better"]
    assert found["sentence"].startswith("Too few rows to tell, 6 are the least, on 1 of 50 rows")


def test_p_is_that_of_all_swaps():
    differences = [-3.0, -2.0, -1.5, -1.0, -0.5, 0.25, 0.75]
    swaps = np.array(np.meshgrid(*[(1, -1)] * 7)).reshape(7, -1).T @ differences
    known = np.mean(np.abs(swaps) >= -sum(differences))
    assert losses("loss", "Loss", [(10.0, 10.0 + one, 4) for one in differences]).p == pytest.approx(known)


def test_many_rows_are_drawn_in_parts(monkeypatch):
    rows = loss_rows(-0.05)
    whole = losses("loss", "Loss", rows)
    monkeypatch.setattr(judgement, "_AT_ONCE", 1000)
    assert losses("loss", "Loss", rows) == whole


def test_shares_of_words_are_not_told_as_rows():
    halves = scores("f1", "Words in common, F1", [0.0] * 8, [0.5] * 8)
    assert "words in common, F1 0.0% → 50.0% on 8 rows" in judged(halves)["sentence"]


def test_equal_models_differ_by_nothing():
    found = scores("f1", "F1", [0.5] * 8, [0.5] * 8)
    assert (found.p, found.low, found.high) == (1.0, 0.0, 0.0)


def test_what_was_forgotten_is_told_and_decides_nothing():
    task = losses("loss", "Loss", loss_rows(-0.3))
    found = judged(task, losses("general", "General", [(30.0, 31.0, 10)] * 8))
    assert found["better"]
    assert found["sentence"].endswith("General text: perplexity 10.5% higher.")  # exp(0.1)
    noise = losses("general", "General", [(30.0, 30.0 + sign, 10) for sign in (1, -1) * 4])
    assert judged(task, noise)["sentence"].endswith("which chance explains.")


def test_a_benchmark_is_told_and_decides_nothing():
    better = judgement.losses("loss", "Loss", [(30.0, 20.0 - number % 2, 10) for number in range(8)])
    benchmark = judgement.scores("benchmark", "arc_easy, acc", [1.0] * 20, [0.0] * 20)
    found = judgement.verdict([better, benchmark], basis="rows", of=8)
    assert (found["better"], found["worse"]) == (True, False)
    assert found["sentence"].endswith(" Benchmark: arc_easy, acc 20 → 0 of 20 (p < 0.001).")
