import json

import pytest

from catalog import models
from estimator.__main__ import comparisons, main
from estimator.accuracy import comparison
from estimator.accuracy.comparison import KINDS, summary
from specs import PlanError
from tests.estimator.accuracy.measured import FOLDER

HEADER = "source,gpu,model,method,r,target_modules,per_device_train_batch_size,max_length,max_memory_allocated_bytes"


@pytest.fixture(scope="module")
def compared():
    return [entry for file in sorted(FOLDER.glob("*.csv")) for entry in comparisons(file)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rows", "mean", "under", "over"),
    [
        pytest.param("allocated", 25, 0.0010, -0.0040, 0.0040, id="allocated"),
        pytest.param("reserved", 17, 0.0155, -0.0595, 0.0495, id="reserved"),
        pytest.param("used", 25, 0.0210, -0.0580, 0.0885, id="used"),
    ],
)
def test_the_errors_over_all_measured_rows_have_not_grown(compared, kind, rows, mean, under, over):
    found = summary(compared, kind)
    assert found.n == rows
    assert found.mean_abs_error <= mean
    assert found.worst_under >= under
    assert found.worst_over <= over


@pytest.mark.slow
def test_every_measured_row_has_a_prediction(compared):
    assert [entry.error_text for entry in compared] == [""] * len(compared)


@pytest.mark.slow
def test_the_report_has_rows_and_summary(capsys):
    assert main(["accuracy", "--rows", str(FOLDER / "t4.csv"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["rows"]) == 17
    assert {"predicted_allocated_bytes", "measured_allocated_bytes", "error"} <= set(report["rows"][0])
    assert set(report["summary"]) == set(KINDS)
    assert set(report["summary"]["used"]) == {"n", "mean_abs_error", "worst_under", "worst_over"}


def test_every_measured_row_names_its_source():
    for file in FOLDER.glob("*.csv"):
        for row in comparison.rows(file.read_text()):
            assert "/" in row.source
            assert row.gpu
            assert models.find(str(FOLDER / row.model)).num_params


def test_empty_cells_keep_the_defaults():
    (row,) = comparison.rows(f"{HEADER}\nme,T4,m.json,lora,,,,512,1e9\n")
    assert (row.plan.r, row.plan.target_modules, row.plan.max_length) == (16, "all-linear", 512)
    assert row.measured == {"allocated": 10**9}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("a,b\n1,2\n", "model and method", id="no measured rows"),
        pytest.param(f"{HEADER}\nme,T4,m.json,magic,,,,512,1\n", "must be one of", id="unknown method"),
        pytest.param(f"{HEADER}\nme,T4,m.json,lora,x,,,512,1\n", "number", id="no number"),
    ],
)
def test_broken_rows_say_what_is_wrong(text, words):
    with pytest.raises(PlanError, match=words):
        comparison.rows(text)


def test_ligers_loss_is_a_condition_of_a_row_and_no_choice_of_a_plan():
    (row,) = comparison.rows(f"{HEADER},loss\nme,T4,m.json,lora,,,,512,1e9,fused\n")
    assert row.conditions.liger_loss
    assert row.plan.loss == "full"
    (row,) = comparison.rows(f"{HEADER},loss\nme,T4,m.json,lora,,,,512,1e9,chunked\n")
    assert not row.conditions.liger_loss
    assert row.plan.loss == "chunked"
