import csv
import io
import json
from collections import Counter

import pytest

from catalog import machine, models
from estimator.__main__ import main
from estimator.accuracy import comparison, measure
from estimator.replay.overhead import worker_bytes
from specs import GIB, MIB, FinetunePlan, GpuSpec
from specs.paths import assets
from tests.estimator.small import CONFIGS

CONFIGURATIONS = (assets() / "configurations.csv").read_text(encoding="utf-8")
CARD = machine.Device(
    gpu=GpuSpec(name="Tesla T4", memory_bytes=16 * GIB, usable_bytes=15 * GIB),
    index=0,
    total_bytes=16 * GIB,
    free_bytes=15 * GIB,
)
FOUND = {"phases": {"load": 10, "forward": 20}, "max_memory_allocated_bytes": 20, "max_memory_reserved_bytes": 30}


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.slow
def test_a_run_on_this_machine_becomes_a_row_that_the_accuracy_report_reads(tmp_path, capsys):
    """32,000 words of 4 bytes for 1,024 tokens are 125 MiB: the logits' copies alone outweigh what a bound must leave.

    Of the 512 MiB that a worker holds without tensors, imports take 18 more here, as a mixture shows that has 91 MiB of
    tensors: 621 MiB, of which 603 are predicted.
    """
    (tmp_path / "small.json").write_text(json.dumps(CONFIGS["qwen3_moe with experts"] | {"vocab_size": 32_000}))
    wanted = tmp_path / "wanted.csv"
    wanted.write_text(
        "model,method,dtype,per_device_train_batch_size,max_length,loss,target_modules\n"
        "small.json,qlora,float32,2,512,full,q_proj v_proj\n"
    )
    file = tmp_path / "rows.csv"
    arguments = ["measure", "--device", "cpu", "--configurations", str(wanted), "--rows", str(file)]
    assert main(arguments) == 0
    (entry,) = rows_of(file.read_text())
    assert (entry["gpu"], entry["model"], entry["target_modules"]) == ("CPU", "small.json", "q_proj v_proj")
    assert "load" in entry["notes"]
    assert "transformers=" in entry["versions"]
    capsys.readouterr()
    assert main(["accuracy", "--rows", str(file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["summary"]["used"]["n"] == 1, report["rows"][0].get("problem")
    (row,) = report["rows"]
    assert row["measured_used_bytes"] == int(entry["used_bytes"])
    assert row["predicted_used_bytes"] - worker_bytes() > 500 * MIB
    assert abs(row["error_used"]) < 0.05, "25 MiB of 1,052 on 2026-11-28: the imports; the tensors are met within 7"
    assert main(arguments) == 0
    assert len(rows_of(file.read_text())) == 1, "what is there is not measured again"


def test_there_are_forty_configurations_of_every_kind():
    rows = comparison.rows(CONFIGURATIONS)
    assert len(rows) >= 40
    assert {row.plan.method for row in rows} >= {"full", "lora", "qlora", "dora", "lora-8bit"}
    assert {row.plan.loss for row in rows} == {"full", "chunked"}
    assert {row.plan.gradient_checkpointing for row in rows} == {True, False}
    assert {512, 16384} <= {row.plan.max_length for row in rows}
    assert max(Counter(json.dumps(comparison.settings(row.plan)) + row.model for row in rows).values()) == 1
    sizes = [models.find(row.model).num_params for row in rows]
    assert min(sizes) < 5e8
    assert max(sizes) > 7e10


def test_every_configuration_is_read_back_from_its_row():
    for row in comparison.rows(CONFIGURATIONS):
        text = measure.appended("", measure.row(row.plan, row.model, CARD, FOUND))
        (again,) = comparison.rows(text)
        assert again.plan == row.plan
        assert again.measured == {"allocated": 20, "reserved": 30}
        assert measure.is_measured(text, row.plan, row.model, CARD)


def test_a_run_that_ran_out_of_memory_is_a_row_without_figures():
    plan = FinetunePlan.for_method("full", "meta-llama/Llama-3.1-8B", bf16=True, loss="full")
    found = {**FOUND, "ran_out": "CUDA out of memory. Tried to allocate 2.00 GiB"}
    text = measure.appended("", measure.row(plan, plan.model_name_or_path, CARD, found))
    (row,) = comparison.rows(text)
    assert row.ran_out
    assert row.measured == {}


def test_rows_are_appended_under_one_header():
    plan = FinetunePlan.for_method("lora", "m", loss="full")
    first = measure.appended("", measure.row(plan, "m", CARD, FOUND))
    assert not measure.is_measured(first, plan, "other", CARD)
    assert len(rows_of(measure.appended(first, measure.row(plan, "other", CARD, FOUND)))) == 2


@pytest.mark.skipif(not machine.devices()[0].gpu.is_cpu, reason="this machine has a card")
def test_a_machine_without_a_card_says_so(capsys):
    assert main(["measure"]) == 2
    printed = capsys.readouterr()
    assert "needs an NVIDIA card" in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.slow
def test_a_plan_that_cannot_be_trained_says_why():
    plan = FinetunePlan.for_method("lora", "small", target_modules=("q_porj",), dtype="float32")
    model = models.described(CONFIGS["llama"], name="small", source="a test")
    with pytest.raises(measure.RunError, match="Nearest: q_"):
        measure.measure(plan, model, machine.processor())
