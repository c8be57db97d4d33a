"""What an ablation finds of its plans, which plan is best, and how sets of modules are written."""

import dataclasses
import statistics

import pytest

from specs import FinetunePlan, PlanError
from trainer.commands.racing import grid
from trainer.runs.ablation import ranked, results, sentence, sets_of, with_modules
from trainer.runs.race import Race
from trainer.runs.varied import MOST_TRAININGS, race_of

LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PLAN = FinetunePlan.for_method("lora", "some/model", r=16, lora_alpha=32, seed=7)


def ablation(*losses: float | None, repeats=3, vary="r=4,16") -> Race:
    found = race_of(PLAN, [vary], repeats=repeats)
    known = {trial: (loss,) for trial, loss in enumerate(losses) if loss is not None}
    return dataclasses.replace(found, losses=known, seconds=dict.fromkeys(known, 10.0))


def test_every_plan_is_trained_with_every_seed_and_alpha_follows_the_rank():
    found = ablation()
    plans = [found.plan_of(trial, PLAN) for trial in range(6)]
    assert [plan.seed for plan in plans] == [7, 8, 9, 7, 8, 9]
    assert [(plan.r, plan.lora_alpha) for plan in plans[::3]] == [(4, 16), (16, 32)]
    assert (found.rungs, found.runs_time, found.own) == ((1.0,), 6, 3)
    assert found.label(1, PLAN) == "r 4, seed 8"
    assert race_of(PLAN, ["r=4", "lora_alpha=8,64"]).plan_of(1, PLAN).lora_alpha == 64
    assert Race.from_dict(found.to_dict()) == found


def test_means_and_deviations_are_those_of_the_seeds():
    first, second = results(ablation(2.0, 2.2, 2.4, 1.0, 1.5), PLAN)
    assert first.mean == pytest.approx(2.2)
    assert first.deviation == pytest.approx(statistics.stdev([2.0, 2.2, 2.4]))
    assert (first.label, first.seconds, second.losses, second.seeds) == ("r 4", 10.0, (1.0, 1.5), 3)
    assert first.said == "2.2000 ± 0.2000"


def test_the_best_plan_has_the_lowest_mean_and_is_trained_with_every_seed():
    assert ablation(2.0, 2.2, 2.4, 1.0, 1.5).best == 0
    whole = ablation(2.0, 2.2, 2.4, 1.0, 1.5, 3.0)
    assert (whole.best, whole.entering(0), whole.entering(1)) == (3, tuple(range(6)), (3,))
    assert ablation(2.0).entering(1) == ()


def test_a_plan_of_which_a_training_failed_has_no_mean():
    broken = dataclasses.replace(ablation(2.0, None, 2.4, 5.0, 5.0, 5.0), out={1: ("not_finite", "The loss is none.")})
    first, second = results(broken, PLAN)
    assert (first.mean, first.deviation, first.out, first.said) == (None, None, "The loss is none.", "")
    assert ranked([first, second]) == [second]
    assert broken.best == 3


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        pytest.param((2.0, 2.2, 2.4, 1.9, 2.1, 2.3), "ahead of the second by 0.1000 ± 0.0000", id="ahead with each"),
        pytest.param((2.0, 2.2, 2.4, 2.1, 2.1, 2.3), "are not told apart: 0.0333", id="within the noise"),
        pytest.param((), "No plan has a held-out loss yet.", id="nothing yet"),
    ],
)
def test_plans_are_told_apart_seed_by_seed(losses, said):
    assert said in sentence(results(ablation(*losses), PLAN))


def test_one_seed_has_no_deviation_and_tells_nothing_apart():
    found = results(ablation(2.0, 1.0, repeats=1), PLAN)
    assert [one.said for one in found] == ["2.0000", "1.0000"]
    assert sentence(found) == "Held-out loss, lowest first: r 16 1.0000; r 4 2.0000."


def test_sets_of_modules_are_written_with_letters():
    (text,) = with_modules(["target_modules=q,qv,qkvo,all,up_proj"], LLAMA)
    assert text == "target_modules=q_proj,q_proj+v_proj,q_proj+k_proj+v_proj+o_proj,all-linear,up_proj"
    (text,) = with_modules(["target_modules=qv"], ("query", "key", "value", "dense"))
    assert text == "target_modules=query+value"
    assert [*with_modules(["r=4,8"], LLAMA)] == ["r=4,8"]
    with pytest.raises(PlanError, match="has none for each of these letters, got qv"):
        [*with_modules(["target_modules=qv"], ("query_key_value", "dense"))]


def test_the_textbooks_grid_is_the_default_and_within_bounds():
    assert sets_of(LLAMA) == ("q", "k", "v", "qv", "qkvo", "all")
    assert sets_of(("query_key_value", "dense")) == ("all",)
    found = race_of(PLAN, [*with_modules(grid(None, LLAMA), LLAMA)], repeats=3)
    assert len(found.changes) == 7 * 6 * 3 < MOST_TRAININGS
    assert grid(["r=1,2"], LLAMA) == ["r=1,2"]


@pytest.mark.parametrize(
    ("vary", "repeats", "said"),
    [
        pytest.param("seed=1,2", 0, "must name what makes a difference by itself, got seed", id="seeds alone"),
        pytest.param(f"r={','.join(map(str, range(1, 70)))}", 3, "must give 2 to 66 plans", id="too many"),
    ],
)
def test_a_grid_that_cannot_be_trained_is_refused(vary, repeats, said):
    with pytest.raises(PlanError, match=said):
        race_of(PLAN, [vary], repeats=repeats)
