"""The Data tab and the inputs about the data: what is read, what is not, and what a run takes along."""

import io
import json

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from catalog import models
from specs import paths
from trainer.data.tokenizer import FolderTokenizer
from trainer.runs import launcher
from ui.parts import examining
from ui.plan.data import datasets
from ui.plan.data.data_form import LONGEST_IN_ADDRESS
from ui.runs.facts import run_data

QWEN = "Qwen/Qwen3-0.6B"
ASKED = {"role": "user", "content": "What is 1+1?"}
THOUGHT = {"role": "assistant", "content": "2", "reasoning_content": "One and one make two."}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]}
PAIR = {"prompt": "Why?", "chosen": "Since it is so.", "rejected": "Dunno."}


def kept(rows, name="mine.jsonl"):
    text = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
    return datasets.add(io.BytesIO(text.encode()), name)


def opened(page, rows, **parameters):
    return page(data=kept(rows), view="Data", model=QWEN, **parameters)


def shown(app):
    return [element.body for element in app.get("html") if "pre-wrap" in element.body]


def started(app):
    app.button(key="start").click().run()
    (run,) = run_data.store().runs()
    run_data.store().request_stop(run.id)
    return run.data


def test_what_is_not_read_and_what_is_skipped_is_counted_on_the_page(page):
    rows = [{"prompt": f"{number}?", "completion": "Yes.", "id": number + 1, "lang": "en"} for number in range(20)]
    rows[3] |= {"completion": None, "lang": None}
    app = opened(page, rows)
    unread, skipped = (table.value for table in app.table)
    assert unread.to_dict("list") == {"Column or key of a message": ["id", "lang"], "Rows": ["19", "19"]}
    assert skipped.to_dict("list") == {"Reason": ["completion is empty"], "Rows": ["1"]}
    assert any(caption.value == "Row 4\\." for caption in app.caption)


def test_calls_and_their_tools_are_shown_as_they_are_learned(page):
    app = opened(page, [{"messages": [ASKED, CALL], "tools": TOOLS}] * 3)
    row = shown(app)[0]
    assert row.index("&quot;name&quot;: &quot;add&quot;, &quot;parameters&quot;") < row.index("[learned]")
    assert row.index("[learned]") < row.rindex("&lt;tool_call&gt;\n{&quot;name&quot;")
    assert any("the template of the family qwen3" in text.value for text in app.markdown)


def test_reasoning_is_learned_or_left_out_by_a_choice_that_a_link_restores(page):
    app = opened(page, [{"messages": [ASKED, THOUGHT]}] * 3)
    assert "One and one make two." in shown(app)[0]
    app.segmented_control(key="thinking").set_value("Leave it out").run()
    assert "One and one make two." not in shown(app)[0]
    linked = opened(page, [{"messages": [ASKED, THOUGHT]}] * 3, thinking="Leave it out")
    assert "One and one make two." not in shown(linked)[0]


def test_data_without_reasoning_is_not_asked_about_it(page):
    assert not [box for box in page().get("button_group") if box.key == "thinking"]


def test_a_run_gets_thinking_split_and_questions_from_the_address(page, monkeypatch):
    monkeypatch.setattr(launcher, "launch", lambda *_: None)
    label = kept({"train": [{"messages": [ASKED, THOUGHT]}] * 3, "test": [{"messages": [ASKED, THOUGHT]}]}, "s.json")
    app = page(data=label, thinking="Leave it out", evaluate="test", prompts="One?\n\n Two? \n")
    assert not app.error
    data = started(app)
    assert (data.thinking, data.split, data.evaluation_split) == ("drop", "train", "test")
    assert data.prompts == ("One?", "Two?")


def test_the_splits_of_a_file_are_offered(page):
    label = kept({"train": [{"text": "a b"}] * 3, "test": [{"text": "c d"}]}, "splits.json")
    app = page(data=label, view="Data")
    assert app.selectbox(key="split").options == ["train", "test"]
    assert app.selectbox(key="evaluate").options == ["A share of the rows", "test"]
    assert [metric.value for metric in app.metric if metric.label == "Examples"] == ["3"]
    app.selectbox(key="split").set_value("test").run()
    assert [metric.value for metric in app.metric if metric.label == "Examples"] == ["1"]
    assert app.selectbox(key="evaluate").options == ["A share of the rows", "train"]


def test_questions_stand_in_the_address_only_if_they_are_short(page):
    app = page(prompts="Why?")
    assert app.text_area(key="prompts").value == "Why?"
    app.text_area(key="prompts").set_value("Why not?").run()
    assert app.query_params["prompts"] == "Why not?"
    app.text_area(key="prompts").set_value("x" * (LONGEST_IN_ADDRESS + 1)).run()
    assert "prompts" not in app.query_params
    assert len(app.text_area(key="prompts").value) == LONGEST_IN_ADDRESS + 1


def test_pairs_turn_the_advice_to_preference_unless_another_task_is_chosen(page):
    app = opened(page, [PAIR] * 3)
    assert app.selectbox(key="task").value == "As the data says"
    assert any("pairs of a better and a worse answer, so the advice is for" in note.value for note in app.caption)
    better, worse = shown(app)[:2]
    assert ("Since it is so." in better, "Dunno." in worse) == (True, True)
    app.selectbox(key="task").set_value("Style and tone").run()
    assert any("but the task you chose is style and tone" in note.value for note in app.caption)


@pytest.mark.parametrize("task", ["As the data says", "Preferences (DPO)", "Instructions and chat"])
def test_the_learning_rate_follows_the_task(page, task):
    app = page(data=kept([PAIR] * 3), model=QWEN, task=task)
    rate = app.selectbox(key="learning_rate").proto.placeholder
    assert (rate == "5e-6") == (task != "Instructions and chat")


def test_marked_answers_say_their_mark_and_that_no_run_trains_on_them_yet(page):
    app = opened(page, [{"prompt": "2+2?", "completion": str(4 + wrong), "label": not wrong} for wrong in (0, 1, 0)])
    assert app.button(key="start").disabled
    assert any("unpaired preference, KTO" in note.value for note in app.caption)
    assert [text.value for text in app.markdown if "marked" in text.value and "Row" in text.value] == [
        "**Row 1** · marked good",
        "**Row 2** · marked bad",
        "**Row 3** · marked good",
    ]


def test_the_demo_model_is_never_anothers_tokenizer_in_silence(page):
    if not paths.demo_model().is_dir():
        pytest.skip("the demo model is not in the cache")
    told = [text.value for text in opened(page, [PAIR] * 3).markdown if "What the model reads" in text.value]
    assert "the template of the family qwen3" in told[0]
    assert "the tokenizer of SmolLM2\\-135M\\-Instruct" in told[0]
    told = [text.value for text in page(view="Data").markdown if "What the model reads" in text.value]
    assert "the model's own" in told[0]


def test_a_models_own_folder_reads_the_data(tmp_path):
    tokenizer = Tokenizer(WordLevel({"a": 0}))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(models.find(QWEN).config_json)
    reader = examining.reader_for(str(tmp_path))
    assert isinstance(reader.tokenizer, FolderTokenizer)
    assert reader.is_own


def test_words_that_identify_a_model_read_as_its_name_does():
    by_words, by_name = (examining.reader_for(name) for name in ("llama 3.1 8b", "meta-llama/Llama-3.1-8B"))
    assert by_words is by_name
    assert by_words.template == "plain headings: this model has no chat template, Llama-3.1-8B-Instruct has one"


def test_an_upload_is_told_by_its_own_name(page):
    rows = [{"prompt": "Q", "chosen": "A", "rejected": "A"}] * 3
    app = page(data=kept(rows, "paare.jsonl"))
    assert app.error[0].value.replace("\\", "").startswith("paare.jsonl: 3 of 3 rows cannot be trained on")


def test_a_tokenizer_that_cannot_be_read_is_one_sentence(page, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "config.json").write_text(models.find(QWEN).config_json)
    app = page(data=kept([PAIR] * 3), model=str(tmp_path))
    (told,) = app.error
    assert "must have a readable tokenizer.json" in told.value.replace("\\", "")
    assert not [button for button in app.button if button.key == "start"]


def test_fetching_a_tokenizer_is_offered_and_refused_in_a_sentence_without_a_network(page, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    app = opened(page, [PAIR] * 3)
    fetch = next(button for button in app.button if button.label.startswith("Fetch its tokenizer"))
    assert fetch.label == "Fetch its tokenizer (about 10 MB)"  # 72 bytes for each of 151,936 words
    fetch.click().run()
    assert "cannot be reached" in app.error[0].value
    assert not [button for button in page(view="Data").button if button.label.startswith("Fetch")]


def test_a_mark_in_an_upload_is_no_markup(page):
    app = opened(page, [{"prompt": "<img src=x onerror=alert(1)>", "completion": "**b**", "<i>": 1}] * 3)
    assert "&lt;img src=x" in shown(app)[0]
    assert app.table[0].value["Column or key of a message"][0] == "\\<i\\>"
