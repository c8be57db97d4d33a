import json

import pytest

from catalog import models
from estimator.__main__ import comparisons, main
from estimator.accuracy import comparison
from estimator.accuracy.comparison import KINDS, Comparison, summary
from estimator.replay.reservation import Circumstances
from specs import PlanError
from tests.estimator.accuracy.measured import FOLDER

HEADER = "source,gpu,model,method,r,target_modules,per_device_train_batch_size,max_length,max_memory_allocated_bytes"


@pytest.fixture(scope="module")
def compared():
    return [entry for file in sorted(FOLDER.glob("*.csv")) for entry in comparisons(file)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "kind", "rows", "mean", "under", "over"),
    [
        pytest.param(False, "allocated", 37, 0.0010, -0.0040, 0.0040, id="allocated"),
        pytest.param(False, "reserved", 17, 0.0155, -0.0595, 0.0495, id="reserved"),
        pytest.param(False, "used", 33, 0.0250, -0.0580, 0.0885, id="used"),
        pytest.param(True, "used", 3, 0.0250, -0.0300, 0.0200, id="this trainer on a CPU"),
    ],
)
def test_the_errors_over_all_measured_rows_have_not_grown(compared, own, kind, rows, mean, under, over):
    found = summary([entry for entry in compared if entry.row.by_own_trainer is own], kind)
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
            beside = FOLDER / row.model
            assert models.find(str(beside) if beside.is_file() else row.model).num_params


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


def read(**cells):
    """Return one row of so many cells."""
    named = {"source": "me", "model": "m.json", "method": "lora", **cells}
    (row,) = comparison.rows(",".join(named) + "\n" + ",".join(named.values()))
    return row


RAISED = {"method": "qlora", "prepare_kbit": "true", "autocast": "true"}


@pytest.mark.parametrize(
    ("cells", "field", "expected"),
    [
        pytest.param({"versions": "transformers=4.49.9"}, "shifted_logits", True, id="logits were shifted"),
        pytest.param({"versions": "transformers=4.50.0"}, "shifted_logits", False, id="labels since 4.50"),
        pytest.param({}, "shifted_logits", False, id="today's unless it says"),
        pytest.param(
            {**RAISED, "versions": "trl=0.25.1"}, "embeddings_cast_back", True,
            id="TRL cast back",
        ),
        pytest.param(
            {**RAISED, "versions": "trl=0.26.0"}, "embeddings_cast_back", False,
            id="until 0.26",
        ),
        pytest.param(
            {**RAISED, "versions": "trl=0.25.1", "prepare_kbit": "0"}, "embeddings_cast_back", False, id="not raised"
        ),
        pytest.param({"padding": "mask"}, "padding", "mask", id="padded as it says"),
        pytest.param({}, "padding", "none", id="else not"),
        pytest.param({"kv_repeated": "1"}, "kv_repeated", True, id="a switch as a number"),
        pytest.param({"outputs_converted": "false"}, "outputs_unconverted", True, id="a loop without accelerate"),
        pytest.param({}, "outputs_unconverted", False, id="else accelerate converts"),
        pytest.param({"use_cache": "true"}, "kv_cache", "copied", id="today's cache holds copies"),
        pytest.param(
            {"use_cache": "true", "versions": "transformers=4.55.4"}, "kv_cache", "referenced", id="until 4.56 none"
        ),
        pytest.param({"versions": "transformers=4.57.6"}, "kv_cache", "copied", id="a cache in a Trainer before 5"),
        pytest.param({"versions": "transformers=5.0.0"}, "kv_cache", "none", id="none since 5"),
        pytest.param({"versions": "transformers=4.57.6 trl=0.21.0"}, "kv_cache", "copied", id="TRL's trainer too"),
        pytest.param({"versions": "transformers=4.57.6 trl=0.22.1"}, "kv_cache", "none", id="not since 0.22"),
        pytest.param(
            {"versions": "transformers=4.57.6", "caller_holds_outputs": "true"}, "kv_cache", "none", id="loops say so"
        ),
        pytest.param({"use_cache": "true", "gradient_checkpointing": "true"}, "kv_cache", "none", id="recomputed"),
    ],
)  # fmt: skip
def test_the_loop_around_a_measured_step_follows_from_its_versions(cells, field, expected):
    assert getattr(read(**cells).conditions, field) == expected


THREADS = {"loaded_by_threads": True, "reset_after_loading": True}


@pytest.mark.parametrize(
    ("cells", "changed"),
    [
        pytest.param({}, {}, id="today's libraries"),
        pytest.param(
            {"versions": "transformers=4.49.0"}, {"warmed_up": False, "fsdp_version": 1}, id="no warm-up before 4.50"
        ),
        pytest.param({"versions": "transformers=4.50.0"}, {"fsdp_version": 1}, id="warm-up since 4.50"),
        pytest.param({"versions": "transformers=4.57.0"}, {"fsdp_version": 1}, id="no threads before 5.0"),
        pytest.param({"versions": "transformers=5.0.0"}, THREADS, id="threads from 5.0 on"),
        pytest.param({"versions": "transformers=5.3.0"}, THREADS, id="threads in 5.3"),
        pytest.param({"versions": "transformers=5.4.0"}, {}, id="none since 5.4"),
        pytest.param({"bnb_forward": "dequantize"}, THREADS, id="older bitsandbytes, older transformers"),
        pytest.param({"versions": "peft=0.19.1"}, {"cache_emptied": False}, id="a cache that stayed full"),
        pytest.param({"versions": "peft=0.20.0"}, {}, id="emptied since 0.20"),
        pytest.param(
            {"caller_holds_outputs": "true", "outputs_dropped": "false"}, {"outputs_carried": True}, id="carried on"
        ),
    ],
)
def test_how_a_measured_run_loaded_follows_from_its_versions(cells, changed):
    usual = {"expandable_segments": False, "loaded_by_threads": False, "reset_after_loading": False}
    assert read(**cells).circumstances == Circumstances(**{**usual, **changed})


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        pytest.param({"autocast": "true"}, {"bf16": True, "fp16": False}, id="mixed precision in bfloat16"),
        pytest.param({"autocast": "true", "dtype": "float16"}, {"bf16": False, "fp16": True}, id="in float16"),
        pytest.param({"autocast": "false"}, {"bf16": False, "fp16": False}, id="none"),
        pytest.param({"target_modules": "q_proj v_proj"}, {"target_modules": ("q_proj", "v_proj")}, id="named targets"),
        pytest.param({"optim": "adamw_bnb_8bit"}, {"optim": "adamw_8bit"}, id="another name of an optimizer"),
        pytest.param({"attention_kernel": "eager"}, {"attn_implementation": "eager"}, id="eager attention"),
        pytest.param({}, {"loss": "full"}, id="plain cross-entropy"),
        pytest.param({"method": "full", "r": "4"}, {"r": 16}, id="no rank without an adapter"),
    ],
)
def test_a_measured_row_becomes_a_plan(cells, values):
    plan = read(**cells).plan
    assert {name: getattr(plan, name) for name in values} == values


@pytest.mark.parametrize(
    ("measured", "predicted", "error"),
    [
        pytest.param(1_000, 1_100, 0.1, id="a tenth too much"),
        pytest.param(1_000, 900, -0.1, id="a tenth too little"),
        pytest.param(0, 900, None, id="nothing measured"),
        pytest.param(1_000, None, None, id="nothing predicted"),
    ],
)
def test_an_error_is_a_signed_fraction_of_what_was_measured(measured, predicted, error):
    row = read(max_memory_allocated_bytes=str(measured))
    entry = Comparison(row=row, predicted={} if predicted is None else {"allocated": predicted})
    assert entry.error("allocated") == (None if error is None else pytest.approx(error))


def test_a_summary_has_the_mean_and_the_worst_of_either_side():
    entries = [
        Comparison(row=read(used_bytes="1000"), predicted={"used": predicted}) for predicted in (900, 1_000, 1_050)
    ]
    found = summary(entries, "used")
    assert (found.n, found.mean_abs_error) == (3, pytest.approx(0.05))
    assert (found.worst_under, found.worst_over) == (pytest.approx(-0.1), pytest.approx(0.05))
    assert summary(entries, "reserved").n == 0


@pytest.mark.parametrize(("notes", "ran_out"), [("ran out at 15.2 GiB", True), ("never ran out", False)])
def test_a_run_that_ran_out_begins_its_notes_so(notes, ran_out):
    assert read(notes=notes).ran_out == ran_out


@pytest.mark.parametrize("versions", ["transformers=main", "torch=2.4.1 transformers trl=0.13.0", "transformers=5"])
def test_a_row_that_names_a_library_without_its_version_is_refused(versions):
    with pytest.raises(PlanError, match="must say which version of transformers ran"):
        read(versions=versions)


def test_outputs_that_no_loop_holds_cannot_be_carried_on():
    with pytest.raises(PlanError, match="outputs_dropped: can be false only where the loop holds outputs"):
        read(outputs_dropped="false")


def test_accumulation_storage_and_offload_are_read_from_their_columns():
    row = read(
        method="qlora",
        bnb_4bit_quant_storage="bfloat16",
        gradient_accumulation_steps="4",
        num_gpus="2",
        sharding="fsdp",
        offload="all",
    )
    assert (row.plan.bnb_4bit_quant_storage, row.plan.gradient_accumulation_steps) == ("bfloat16", 4)
    assert read(torch_empty_cache_steps="10").plan.torch_empty_cache_steps == 10
    assert (row.plan.num_gpus, row.plan.sharding, row.plan.offload) == (2, "fsdp", "all")


def test_the_command_ends_with_1_if_a_row_has_a_problem(tmp_path, capsys):
    lines = (FOLDER / "a100.csv").read_text().splitlines()
    file = tmp_path / "rows.csv"
    file.write_text(
        "\n".join((lines[0], lines[1].replace("A100 80GB", "A100").replace("configs/", f"{FOLDER}/configs/")))
    )
    with pytest.raises(SystemExit, match="1"):
        main(["accuracy", "--rows", str(file)])
    assert "matches several cards (A100 PCIe 40 GB" in capsys.readouterr().out
