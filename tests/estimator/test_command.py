import json

import pytest

from catalog import models
from estimator.__main__ import _parser, _plan, main
from specs import METHODS
from tests.trainer.classified import ENCODERS

MODEL = ["--model", "HuggingFaceTB/SmolLM2-135M", "--method", "lora", "--gpu", "RTX 4090"]


def run(capsys, *arguments):
    status = main(list(arguments))
    return status, capsys.readouterr()


def test_one_estimate_as_json(capsys):
    status, printed = run(capsys, *MODEL, "--autocast", "--json")
    found = json.loads(printed.out)
    assert status == 0
    assert found["num_params"] == 134_515_008
    assert found["trainable_params"] == 4_884_480
    assert found["verdict"] == "fits"
    assert found["seconds"] < 60
    assert sum(found["components"].values()) == found["used_bytes"]


def test_one_estimate_for_a_person(capsys):
    status, printed = run(capsys, *MODEL, "--autocast", "--gradient-checkpointing")
    assert status == 0
    assert "GeForce RTX 4090" in printed.out
    assert "used" in printed.out


def test_a_table_says_which_methods_other_settings_exclude(capsys, monkeypatch):
    monkeypatch.setattr(f"{main.__module__}._TABLE_BATCHES", ())  # what is priced is tried below
    status, printed = run(capsys, *MODEL, "--layer-offloading", "--load-in-4bit", "--method", "qlora", "--table", "all")
    assert status == 0
    assert "layer_offloading: streams frozen 4-bit layers and needs load_in_4bit True, got False" in printed.out
    assert all(METHODS[name].label in printed.out for name in METHODS)


def test_levers_of_recomputing_that_change_nothing_are_said(capsys):
    status, printed = run(capsys, *MODEL, "--autocast", "--activation-offloading", "--every-n-layers", "2")
    assert status == 0
    for name in ("activation_offloading", "every_n_layers"):
        assert f"{name} changes nothing without gradient_checkpointing." in printed.out


@pytest.mark.slow
def test_an_option_that_changes_nothing_is_named(capsys):
    _plan(_parser().parse_args([*MODEL, "--method", "ln-tuning", "--r", "64"]), models.find(MODEL[1]))
    assert capsys.readouterr().err.startswith("... r changes nothing: LN tuning (norms only) has no such setting.")


def test_a_table_has_the_usual_methods(capsys):
    status, printed = run(capsys, *MODEL, "--max-length", "512", "--autocast", "--table")
    assert status == 0
    lines = [line[:28].strip() for line in printed.out.splitlines()[2:]]
    assert lines == ["Full fine-tuning", "LoRA", "QLoRA (4-bit)", "LoRA (8-bit)", "rsLoRA", "DoRA"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--per-device-train-batch-size", "0"], "per_device_train_batch_size", id="batch 0"),
        pytest.param(["--max-length", "100000"], "8,192 tokens", id="longer than the model's positions"),
        pytest.param(["--gpu", "Voodoo 2"], "Voodoo", id="unknown card"),
        pytest.param(["--method", "magic"], "must be one of", id="unknown method"),
        pytest.param(["--model", "no/such model"], "model", id="unknown model"),
        pytest.param(["--optim", "magic"], "optim", id="unknown optimizer"),
        pytest.param(["--offload", "all"], "with sharding none", id="offload without a strategy"),
        pytest.param(["--target-modules", "q_porj"], "Nearest: q_proj", id="misspelt module"),
    ],
)
def test_bad_input_gets_one_sentence_and_status_two(capsys, arguments, words):
    status, printed = run(capsys, *MODEL, *arguments)
    assert status == 2
    assert words in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_the_number_of_cards_needed_is_printed_and_estimated(capsys):
    large = ["--model", "70B", "--method", "full", "--gpu", "A100 80GB", "--autocast", "--gradient-checkpointing"]
    sharded = [*large, "--gpus-needed", "--sharding", "zero3"]
    status, printed = run(capsys, *sharded, "--json")
    on_cards = json.loads(printed.out)
    assert status == 0
    assert 8 < on_cards["gpus_needed"] < 64
    assert on_cards["verdict"] != "does not fit"
    _, printed = run(capsys, *sharded, "--offload", "optimizer", "--json")
    offloaded = json.loads(printed.out)
    assert offloaded["gpus_needed"] < on_cards["gpus_needed"]
    assert offloaded["host_bytes"] > on_cards["host_bytes"] + 20e9
    _, printed = run(capsys, *large)
    assert " with fsdp." in printed.out


def test_a_model_with_few_positions_is_priced_for_no_more(tmp_path):
    ENCODERS["bert"].save_pretrained(tmp_path)
    asked = _parser().parse_args(["--model", str(tmp_path), "--method", "lora"])
    assert _plan(asked, models.find(str(tmp_path))).max_length == 64


def test_one_card_is_enough_if_the_plan_fits(capsys):
    _, printed = run(capsys, *MODEL, "--autocast", "--json")
    assert json.loads(printed.out)["gpus_needed"] == 1
    _, printed = run(capsys, *MODEL, "--autocast")
    assert "One GeForce RTX 4090 is enough." in printed.out


def test_expandable_segments_reserve_less(capsys):
    reserved = []
    for switch in ("--expandable-segments", "--no-expandable-segments"):
        _, printed = run(capsys, *MODEL, "--autocast", "--max-length", "2048", switch, "--json")
        reserved.append(json.loads(printed.out)["peak_reserved_bytes"])
    assert reserved[0] < reserved[1]
