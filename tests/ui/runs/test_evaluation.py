"""The evaluation of a run on its page: offered once there is a result, with its verdict, its measures and its rows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from specs import DataError
from trainer.results import checkpoints, evaluation, judgement
from trainer.runs.contract import Metric, Phase, State
from trainer.runs.export import RESULT
from ui.parts import text, uploads
from ui.runs.facts import run_data
from ui.runs.facts.evaluated import marked, measures, row_table

ROWS = [
    {
        "question": f"What is {number}?",
        "base_loss": 30.0,
        "tuned_loss": 20.0 - number % 2,
        "tokens": 10,
        "answer": "In short: one",
        "base": "I <b>do</b> not know",
        "tuned": "In short: two",
    }
    for number in range(8)
]


@pytest.fixture
def evaluated(finished):
    """A run with a result and an evaluation."""
    run = finished([2.0, 1.0])
    folder = run_data.store().run_folder(run.id)
    (folder / RESULT).mkdir()
    (folder / evaluation.FOLDER).mkdir()
    losses = [(row["base_loss"], row["tuned_loss"], row["tokens"]) for row in ROWS]
    compared = [
        judgement.losses("loss", "Loss per token", losses),
        judgement.scores("exact_match", "Exact match", [0] * 8, [1] * 8),
    ]
    basis = "rows that were not learned"
    found = {
        "verdict": judgement.verdict(compared, basis=basis, of=9),
        "compared": judgement.as_json(compared),
        "rows": 8,
        "of": 9,
        "basis": basis,
        "step": 2,
    }
    for name, values in (
        (evaluation.FOUND, found),
        (evaluation.ROWS, {"rows": ROWS}),
        (evaluation.PROGRESS, {"stage": "stopped", "done": 3, "of": 9, "sentence": "Stopped."}),
    ):
        (folder / evaluation.FOLDER / name).write_text(json.dumps(values))
    return run


def test_nothing_is_offered_before_there_is_a_result(page, finished):
    app = page("runs", run=finished([1.0]).id)
    assert not [button for button in app.button if button.key == "evaluate"]
    assert any("it can be compared with the base model here" in caption.value for caption in app.caption)


def test_a_run_that_learned_all_is_told_the_way_out_before_anything_is_loaded(page, finished):
    trained, store = finished([1.0]), run_data.store()
    run = store.create(trained.plan, replace(trained.data, prompts=("Why?",)), {}, place=trained.place)
    store.claim_next("cpu")
    store.enter(run.id, State.RUNNING, started_at=1.0, phase=Phase.TRAINING)
    store.enter(run.id, State.FINISHED, finished_at=61.0, phase=Phase.DONE)
    (store.run_folder(run.id) / RESULT).mkdir()
    with pytest.raises(DataError, match="this run learned all"):
        run_data.evaluate(run, evaluation.Wanted())
    app = page("runs", run=run.id)
    assert not [button for button in app.button if button.key == "evaluate"]
    assert any(f"evaluate {run.id} --data FILE" in caption.value for caption in app.caption)
    return_rows = b'{"prompt": "Why?", "completion": "So."}\n'
    app.file_uploader[0].upload("other.jsonl", return_rows, "application/jsonl").run()
    assert not app.exception
    assert app.button(key="evaluate").label == "Evaluate"
    (kept,) = uploads.folder().glob("*.jsonl")
    assert kept.read_bytes() == return_rows


def test_training_again_with_rows_held_out_opens_the_plan_of_the_run(page, finished):
    run = finished([1.0])
    app = page(again=run.id, eval_split="0.1")
    assert not app.error
    assert app.text_input(key="eval_split").value == "0.1"


def test_the_verdict_the_measures_and_the_rows_are_shown(page, evaluated):
    app = page("runs", run=evaluated.id)
    assert app.button(key="evaluate").label == "Evaluate again"
    (told,) = [box.value for box in app.success if "base model" in box.value]
    assert told.startswith("Better than the base model, on 8 of 9 rows that were not learned")
    assert text.plain("perplexity 20.09 → 7.029 (p = 0.0078); exact match 0 → 8 of 8") in told
    assert text.plain("Stopped.") in [box.value for box in app.warning]
    table = next(table.value for table in app.table if "Change" in table.value)
    assert table["Tuned model"].tolist() == ["1.9500", "100.0%"]
    assert table["Change"].tolist()[1] == "+100.0 to +100.0 points"


def test_a_search_leaves_the_rows_that_have_the_word(page, evaluated):
    app = page("runs", run=evaluated.id)
    box = next(box for box in app.text_input if box.key == "evaluation search")
    box.set_value("What is 3").run()
    asked = [words.value for words in app.markdown if words.value.startswith("**What is")]
    assert asked == [f"**{text.plain('What is 3?')}**"]


def test_the_best_checkpoint_is_made_the_result_by_a_click(page, evaluated):
    store = run_data.store()
    folder = checkpoints.folder_of(store.run_folder(evaluated.id), 1)
    folder.mkdir(parents=True)
    (folder / checkpoints.STATE).write_text("{}")
    for name in (
        "adapter_model.safetensors",
        "optimizer.safetensors",
        "scheduler.safetensors",
        "rng_state_0.safetensors",
    ):
        save_file({"weight": np.ones(1)}, folder / name)
    for step, loss in ((1, 1.0), (2, 1.5)):
        store.add_metric(evaluated.id, Metric(step=step, eval_loss=loss))
    app = page("runs", run=evaluated.id)
    told = text.plain("its held-out loss is 1.0000, that of the result 1.5000")
    assert any(told in one.value for one in app.caption)
    app.button(key="keep checkpoint").click().run()
    assert store.run(evaluated.id).result_step == 1
    assert [path.name for path in (store.run_folder(evaluated.id) / RESULT).iterdir()] == ["adapter_model.safetensors"]
    assert not [button for button in app.button if button.key == "keep checkpoint"]
    assert any(
        "Measured with the weights of step 2; the result is now those of step 1." in one.value for one in app.caption
    )


def test_words_that_the_data_has_not_are_marked_and_nothing_is_markup():
    assert marked("In short, one", "In short, two") == "In short, **two**"
    assert marked("a b c", "c a b") == "**c** a b"
    assert marked("a b c d", "e f g h") == "e f g h"  # nothing in common: all would be bold
    assert "<b>" not in marked(ROWS[0]["answer"], ROWS[0]["base"])
    assert row_table(ROWS)["Base model"][0] == "I <b>do</b> not know"


def test_small_probabilities_are_bounds():
    one = {**judgement.as_json([judgement.scores("f1", "F1", [0.0] * 20, [0.9] * 20)])[0], "p": 0.0002}
    assert measures([one])["p"] == ["< 0.001"]


def test_code_is_offered_to_be_run_where_the_data_brings_tests(page, evaluated):
    def boxes():
        return [box for box in page("runs", run=evaluated.id).checkbox if box.key == "evaluated code"]

    assert not boxes()
    rows = [{"prompt": "One?", "completion": "x = 1", "test": "assert x"}]
    Path(evaluated.data.path).write_text("\n".join(map(json.dumps, rows)))
    (box,) = boxes()
    assert not box.value
    assert box.disabled == bool(run_data.lacks_sandbox())
