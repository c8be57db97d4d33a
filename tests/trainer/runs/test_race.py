"""The rules of a race: who takes part, who goes on, who wins, and how long it takes."""

import dataclasses
import math

import pytest

from specs import FinetunePlan, PlanError
from trainer.runs.race import Race, steps_at
from trainer.runs.varied import MOST_TRIALS, race_of

PLAN = FinetunePlan.for_method("lora", "some/model", learning_rate=2e-4, eval_split=0.1)
RATES = "learning_rate=1e-4,2e-4,4e-4,8e-4"


def race(*losses: tuple[float, ...], **values) -> Race:
    """A race of the four rates with the losses that its trials have so far."""
    known = {trial: found for trial, found in enumerate(losses) if found}
    return dataclasses.replace(race_of(PLAN, [RATES]), losses=known, **values)


@pytest.mark.parametrize(("trials", "times"), [(2, 1.8), (3, 2.2), (4, 2.6), (8, 3.4)])
def test_the_time_of_a_race_is_the_sum_of_what_its_trials_train(trials, times):
    rates = ",".join(f"{number + 1}e-4" for number in range(trials))
    found = race_of(PLAN, [f"learning_rate={rates}"])
    assert found.runs_time == pytest.approx(times)
    trained, before = 0.0, 0.0
    for rung, share in enumerate((*found.rungs, 1.0)):
        entering = dataclasses.replace(found, losses=dict.fromkeys(range(trials), (1.0,) * rung)).entering(rung)
        trained, before = trained + len(entering) * (share - before), share
    assert trained == pytest.approx(times)


def test_four_rates_cost_less_than_three_runs():
    assert race_of(PLAN, [RATES]).runs_time < 3


def test_the_half_with_the_lower_loss_goes_on():
    found = race((2.0, 1.9), (3.0,), (1.0, 1.95), (4.0,), own=0)
    assert found.entering(0) == (0, 1, 2, 3)
    assert found.entering(1) == (0, 2)
    assert found.entering(2) == (0,)


def test_the_plan_itself_stays_until_the_last_comparison():
    found = race((2.0,), (3.0, 2.0), (1.0, 1.5), (4.0,))
    assert found.own == 1
    assert found.entering(1) == (1, 2)  # not 0, which was better so far
    assert found.entering(2) == (2,)


def test_of_equal_plans_the_one_that_was_asked_for_wins():
    assert race((2.0,), (2.0, 1.0), (1.0, 1.0), (4.0,)).entering(2) == (1,)


def test_a_trial_without_a_loss_is_out():
    found = race((), (3.0, 2.0), (1.0, 1.5), (4.0,), out={0: ("not_finite", "The loss is no number.")})
    assert found.entering(2) == (2,)
    assert found.outcome(0, trains=True) == "out: The loss is no number."
    assert race(out=dict.fromkeys(range(4), ("not_finite", "no"))).entering(1) == ()


def test_what_becomes_of_trials_is_told_while_it_happens():
    early = race((2.0,), (3.0,), now=2)
    assert [early.outcome(trial, trains=True) for trial in range(4)] == ["waiting", "waiting", "training", "waiting"]
    late = race((2.0,), (3.0,), (1.0,), (4.0,), now=1)
    assert [late.outcome(trial, trains=True) for trial in range(4)] == [
        "dropped after 40%",
        "training",
        "waiting",
        "dropped after 40%",
    ]
    assert late.done == pytest.approx(4 * 0.4 / 2.6)
    assert late.outcome(1, trains=False) == "waiting"
    over = race((2.0,), (3.0, 2.0), (1.0, 1.5), (4.0,), now=2, winner=2)
    assert [over.outcome(trial, trains=True) for trial in (1, 2)] == ["dropped after 80%", "won"]


def test_a_winner_at_the_end_of_the_row_says_where_to_look_next():
    assert race(winner=3).hint == "The highest learning_rate won: a higher one may be better still."
    assert race(winner=0).hint == "The lowest learning_rate won: a lower one may be better still."
    assert race(winner=1).hint == race().hint == ""
    assert dataclasses.replace(race_of(PLAN, ["use_dora=false,true"]), winner=1).hint == ""


def test_any_plan_of_a_race_becomes_any_other_and_json_keeps_all():
    found = race_of(PLAN, ["learning_rate=1e-4,2e-4", "target_modules=all-linear,q_proj+v_proj"])
    plans = [found.plan_of(trial, PLAN) for trial in range(4)]
    assert plans[3].target_modules == ("q_proj", "v_proj")
    assert plans[2] == PLAN
    assert found.own == 2
    assert all(found.plan_of(trial, other) == plans[trial] for trial in range(4) for other in plans)
    assert found.label(3, PLAN) == "learning_rate 0.0002, target_modules q_proj+v_proj"
    full = dataclasses.replace(found, losses={1: [2.0]}, steps={1: 9}, out={2: ["a", "b"]}, now=1, winner=0)
    assert Race.from_dict(full.to_dict()) == full


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        pytest.param(["learning_rate=1e-4"], "must give 2 to 8 plans", id="one"),
        pytest.param([f"r={','.join(map(str, range(1, MOST_TRIALS + 2)))}"], "must give 2 to 8 plans", id="many"),
        pytest.param(["r=8,8"], "must give plans that differ", id="twice"),
        pytest.param(["r=4,8", "r=16,32"], "must name each field once, got r", id="a field twice"),
        pytest.param(
            [f"{name}={','.join(map(str, range(1, 1000)))}" for name in ("r", "lora_alpha", "warmup_steps", "deltaT")],
            "2 to 8 plans to compare, got 996005996001",
            id="more than memory holds",
        ),
        pytest.param(["method=lora,ia3", "r=4,8"], "must change something: IA3 has no such setting, got r", id="idle"),
        pytest.param(["modules_to_save=lm_head,embed_tokens"], "modules_to_save: cannot differ", id="whole modules"),
        pytest.param(["max_length=512,1024"], "max_length: cannot differ within a race", id="other rows"),
        pytest.param(["method=lora,qlora"], "cannot differ within a race", id="another base model"),
        pytest.param(["init_lora_weights=default,pissa"], "must leave the base model unchanged", id="changes the base"),
        pytest.param(["learning_rat=1,2"], "is not a field of a plan", id="misspelt"),
        pytest.param(["learning_rate"], "must be written as field=value", id="no values"),
    ],
)
def test_a_race_that_cannot_be_held_is_refused(texts, said):
    with pytest.raises(PlanError, match=said):
        race_of(PLAN, texts)


def test_a_mapping_of_several_modules_is_one_value():
    found = race_of(PLAN, ['rank_pattern={"q_proj": 4, "v_proj": 8},{"q_proj": 8},{}'])
    ranks = [dict(found.plan_of(trial, PLAN).rank_pattern) for trial in range(3)]
    assert ranks == [{"q_proj": 4, "v_proj": 8}, {"q_proj": 8}, {}]


def test_layers_that_wait_in_ram_are_not_raced():
    with pytest.raises(PlanError, match="layer_offloading: must be off in a race"):
        race_of(FinetunePlan.for_method("qlora", "m", layer_offloading=True), [RATES])


def test_plans_are_compared_where_their_loss_is_logged():
    assert steps_at(0.8, 17) == 14
    assert steps_at(0.8, 16, logged=2) == 12
    assert steps_at(0.8, 20, logged=10) == 16  # 20 would be the end


@pytest.mark.parametrize("logged", [1, 2, 3, 10, 25])
def test_no_two_comparisons_are_at_the_same_step(logged):
    for total in range(4, 200):
        steps = [steps_at(share, total, logged=logged) for share in (0.2, 0.4, 0.8)]
        assert 0 < steps[0] < steps[1] < steps[2] < total


def test_a_training_with_fewer_steps_than_comparisons_is_refused():
    rates = ",".join(f"{number + 1}e-4" for number in range(5))
    assert race_of(dataclasses.replace(PLAN, max_steps=4), [f"learning_rate={rates}"])
    with pytest.raises(PlanError, match="max_steps: must leave steps between the comparisons of a race, got 3"):
        race_of(dataclasses.replace(PLAN, max_steps=3), [f"learning_rate={rates}"])


def test_a_training_too_short_to_compare_is_refused():
    with pytest.raises(PlanError, match="must leave steps between the comparisons"):
        race_of(dataclasses.replace(PLAN, max_steps=2), [RATES])


def test_the_scale_of_the_update_stays_where_its_rule_changes():
    plan = FinetunePlan.for_method("lora", "m", r=16, lora_alpha=32, max_steps=40)
    race = race_of(plan, ["method=lora,rslora", "r=16,64"])
    found = [race.plan_of(trial, plan) for trial in range(4)]
    scales = [one.lora_alpha / (math.sqrt(one.r) if one.use_rslora else one.r) for one in found]
    assert scales == [2, 1, 2, 1]
