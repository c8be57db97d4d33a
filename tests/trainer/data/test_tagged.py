"""Words with tags, numbered classes with names, and answers that only one kind of model can learn."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from catalog import here
from specs import FinetunePlan, LorafitError
from tests.trainer.classified import ENCODERS, encoder_tokenizer, source_of
from tests.trainer.tasks import asked_rows, written_rows
from trainer.__main__ import main
from trainer.data.doctor import examined
from trainer.data.examples import first_example
from trainer.data.rendering import Renderer
from trainer.data.row import UnreadableError
from trainer.data.source import DataSource
from trainer.data.tokenizer import FamilyTokenizer
from trainer.runs.contract import Place
from trainer.runs.starting import Starter


def test_numbers_of_tags_get_the_names_that_the_datasets_library_keeps(tmp_path):
    kind = {"feature": {"names": ["O", "B-PER"], "_type": "ClassLabel"}, "_type": "List"}
    told = {"info": {"features": {"ner_tags": kind, "tokens": {"dtype": "string", "_type": "Value"}}}}
    table = pyarrow.table({"tokens": [["Ada", "went"]], "ner_tags": [[1, 0]]})
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(told)}), path)
    example = first_example(DataSource(path=str(path)))
    assert (example.task, example.words, example.tags) == ("tags", ("Ada", "went"), ("B-PER", "O"))


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        pytest.param(["O"], "ner_tags has 1 tags for 2 words", id="too few"),
        *(
            pytest.param(["O", none], f"ner_tags is {int(none)}, which stands for no class", id=f"none: {none!r}")
            for none in (-1, -100, "-100", -100.0)
        ),
    ],
)
def test_a_row_without_a_tag_for_each_word_is_told(tags, words, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"tokens": ["a", "b"], "ner_tags": tags}))
    with pytest.raises(LorafitError, match=words):
        examined(DataSource(path=str(path)))


def test_an_encoder_with_a_decoder_learns_one_answer_and_reads_no_template(tmp_path):
    path = tmp_path / "rows.jsonl"
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    path.write_text(json.dumps({"messages": turns}))
    renderer = Renderer(FamilyTokenizer("qwen3"), task_types=("SEQ_2_SEQ_LM",))
    example = first_example(DataSource(path=str(path)))
    assert renderer.sides(example) == ("system\n\nuser", "assistant")
    assert [*renderer.rendered(example).pieces()] == [("system\n\nuser\n\n", False), ("assistant", True)]
    path.write_text(json.dumps({"messages": [*turns, *turns[1:]]}))
    with pytest.raises(UnreadableError, match="has several answers"):
        renderer.rendered(first_example(DataSource(path=str(path))))


def test_the_model_decides_whether_an_answer_is_written_or_found(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"question": "who?", "context": "It is Ada.", "answers": {"text": ["Ada"], "answer_start": [6]}}
    path.write_text(json.dumps(row))
    example = first_example(DataSource(path=str(path)))
    found = Renderer(FamilyTokenizer("qwen3"), task_types=("SEQ_CLS", "QUESTION_ANS")).rendered(example)
    assert [*found.pieces()] == [("who?\n\nIt is ", False), ("Ada", True), (".", False)]
    written = Renderer(FamilyTokenizer("qwen3"), task_types=("CAUSAL_LM",)).rendered(example)
    assert "<|im_start|>assistant" in written.text


CONTEXT = "It is Ada, Ada."


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        pytest.param({"text": ["Ada"], "answer_start": [6]}, [(6, "Ada")], id="as the data set keeps them"),
        pytest.param([{"text": "Ada", "answer_start": 6}] * 2, [(6, "Ada")] * 2, id="as the file of SQuAD keeps them"),
        pytest.param({"text": ["Ada"], "answer_start": [6.0]}, [(6, "Ada")], id="a whole number of a file with gaps"),
        pytest.param({"text": ["Ada", "Ada"], "answer_start": [11, 7]}, [(11, "Ada")], id="one of two stands there"),
        *(
            pytest.param({"text": ["Ada"], "answer_start": [start]}, [], id=f"not there: {start!r}")
            for start in (-4, 7, 10**30, 6.5, True, "6", None)
        ),
    ],
)
def test_an_answer_counts_only_where_it_stands_in_the_context(answers, found, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "who?", "context": CONTEXT, "answers": answers}))
    example = first_example(DataSource(path=str(path)))
    assert [*example.passage.answers] == found
    assert example.turns[-1].content == "Ada"
    renderer = Renderer(FamilyTokenizer("qwen3"), task_types=("QUESTION_ANS",))
    if found:
        assert ("Ada", True) in [*renderer.rendered(example).pieces()]
    else:
        with pytest.raises(UnreadableError, match="its answer does not stand in its context at answer_start"):
            renderer.rendered(example)


@pytest.mark.parametrize(
    "answers",
    [{"text": [], "answer_start": []}, {"text": None, "answer_start": None}, {}, [], {"text": [None]}],
    ids=str,
)
def test_a_question_without_an_answer_is_a_bad_row_for_every_model(answers, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "who?", "context": CONTEXT, "answers": answers}))
    for task_types in ((), ("QUESTION_ANS",)):
        with pytest.raises(LorafitError, match="answers is empty"):
            examined(DataSource(path=str(path)), FamilyTokenizer("qwen3"), task_types=task_types)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of a small BERT: its configuration and a tokenizer, all that reading takes."""
    folder = tmp_path_factory.mktemp("model") / "bert"
    ENCODERS["bert"].save_pretrained(folder)
    encoder_tokenizer("bert").save_pretrained(folder)
    return folder


def test_data_is_checked_as_the_model_reads_it(bert, tmp_path, capsys):
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps(next(asked_rows())))
    assert main(["check", "--data", str(data), "--show", "1", "--model", str(bert)]) == 0
    printed = capsys.readouterr().out
    assert (
        "read as answers that stand in a text (another model may read answers to learn or texts that belong together), "
        in printed
    )
    assert "row 1 without a template, what is learned in [[ ]]:\n    a good thing\n\nthe [[good thing]] and" in printed
    assert main(["check", "--data", str(data), "--json", "--model", str(bert)]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "extraction"
    assert main(["check", "--data", str(data)]) == 0
    assert (
        "read as answers to learn (another model may read answers that stand in a text or texts that belong together)"
        in capsys.readouterr().out
    )
    turns = [{"role": role, "content": "hello"} for role in ("user", "assistant") * 2]
    data.write_text(json.dumps({"messages": turns}))
    assert main(["check", "--data", str(data), "--model", str(bert)]) == 2
    assert capsys.readouterr().err == (
        "bert: is trained for text classification, token classification, extractive question answering and text "
        "embeddings, not for text generation. Choose another model, or other data.\n"
    )


def test_a_run_of_a_model_that_is_not_trained_for_its_task_is_refused_before_it_exists(bert, tmp_path, store):
    data = source_of(tmp_path / "rows.jsonl", list(written_rows()))
    plan = FinetunePlan.for_method("lora", str(bert), target_modules=("query",))
    with pytest.raises(LorafitError, match=r"bert: is trained for text classification, .*, not for text generation"):
        Starter(store, here).start(plan, data, Place(model_path=str(bert)))
    assert store.runs() == ()
