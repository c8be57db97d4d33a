import csv
import json

import psutil
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from specs import DataError, SpecError, paths
from trainer.data.columns import proposed_columns
from trainer.data.doctor import Report, examined
from trainer.data.layouts import LAYOUTS, Example, Turn, examples, recognised_layout
from trainer.data.reading import Finding
from trainer.data.rendering import IGNORED, labelled, rendered
from trainer.data.source import DataSource
from trainer.data.tokenizer import FolderTokenizer

CHAT = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
ASKED = (Turn(role="user", content="Hi?"), Turn(role="assistant", content="Hello."))


@pytest.mark.parametrize(
    ("row", "layout", "turns"),
    [
        pytest.param({"messages": CHAT}, "messages", ASKED, id="messages"),
        pytest.param(
            {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]},
            "ShareGPT",
            ASKED,
            id="ShareGPT",
        ),
        pytest.param({"conversations": CHAT}, "ShareGPT", ASKED, id="messages under the name conversations"),
        pytest.param({"instruction": "Hi?", "input": "", "output": "Hello."}, "alpaca", ASKED, id="alpaca"),
        pytest.param(
            {"instruction": "Add.", "input": "1 1", "output": "2"},
            "alpaca",
            (Turn(role="user", content="Add.\n\n1 1"), Turn(role="assistant", content="2")),
            id="alpaca with input",
        ),
        pytest.param({"prompt": "Hi?", "completion": "Hello."}, "prompt and completion", ASKED, id="completion"),
        pytest.param(
            {"prompt": CHAT[:1], "completion": CHAT[1:]}, "prompt and completion", ASKED, id="completion as messages"
        ),
        pytest.param({"prompt": "Hi?", "response": "Hello."}, "prompt and response", ASKED, id="response"),
        pytest.param({"question": "Hi?", "answer": "Hello."}, "question and answer", ASKED, id="question"),
        pytest.param({"text": "Once."}, "text", (Turn(role="text", content="Once."),), id="raw text"),
        pytest.param(
            {"prompt": "Hi?", "chosen": "Hello.", "rejected": "Go."}, "preference", ASKED[:1], id="preference pair"
        ),
        pytest.param(
            {"prompt": "Hi?", "chosen": CHAT, "rejected": [*CHAT[:1], {"role": "assistant", "content": "Go."}]},
            "preference",
            ASKED[:1],
            id="preference pair as messages",
        ),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_every_layout_is_recognised_in_every_kind_of_file(tmp_path, row, layout, turns, ending):
    path = tmp_path / f"data.{ending}"
    if ending == "jsonl":
        path.write_text(json.dumps(row) + "\n\n" + json.dumps(row))
    elif ending == "json":
        path.write_text(json.dumps([row, row]))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, row]), path)
    found = list(examples(DataSource(path=str(path))))
    assert [(entry.turns, entry.layout) for entry in found] == [(turns, layout)] * 2
    assert [entry.row for entry in found] == ([1, 3] if ending == "jsonl" else [1, 2])
    if layout == "preference":
        assert (found[0].chosen, found[0].rejected) == ("Hello.", "Go.")


def test_columns_are_named_by_hand(tmp_path):
    path = tmp_path / "data.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream).writerows([["frage", "antwort"], ["Hi?", "Hello."], ["Line\nbreak", "Ünïcode"]])
    with pytest.raises(DataError, match="must have the columns of one of these layouts"):
        list(examples(DataSource(path=str(path))))
    found = list(examples(DataSource(path=str(path), columns={"prompt": "frage", "completion": "antwort"})))
    assert found[0].turns == ASKED
    assert found[1].turns[1].content == "Ünïcode"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param({"frage": "Hi?", "antwort": "Hello."}, {"prompt": "frage", "completion": "antwort"}, id="order"),
        pytest.param(
            {"Answer text": "a", "id": "17", "q": "b"}, {"prompt": "q", "completion": "Answer text"}, id="names"
        ),
        pytest.param(
            {"user_prompt": "a", "worse": "b", "better_answer": "c"},
            {"prompt": "user_prompt", "chosen": "better_answer", "rejected": "worse"},
            id="pair",
        ),
        pytest.param({"dialog": CHAT, "id": 1}, {"messages": "dialog"}, id="chat"),
        pytest.param({"d": [{"from": "human", "value": "a"}]}, {"conversations": "d"}, id="ShareGPT"),
        pytest.param({"body": "Once.", "n": 3}, {"text": "body"}, id="one text"),
        pytest.param({"a": 1, "b": None}, {}, id="no words"),
    ],
)
def test_roles_are_proposed_for_columns_that_are_not_recognised(row, expected):
    assert proposed_columns(row) == expected
    likely = ", ".join(f"{role}={column}" for role, column in expected.items())
    with pytest.raises(DataError, match=f"Say which is which, such as {likely}" if likely else "Rename the columns"):
        recognised_layout(row, "data.csv")


def test_paragraphs_of_a_text_are_rows(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("One\ntwo.\n\n\n  \nThree.\n")
    assert [entry.turns[0].content for entry in examples(DataSource(path=str(path)))] == ["One\ntwo.", "Three."]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        pytest.param("{broken", "Row 2: is not valid JSON", id="broken line"),
        pytest.param("[1]", "Row 2: must be a JSON object, got list.", id="a list"),
        pytest.param({"messages": CHAT[:1]}, "Row 2: has no answer of the assistant.", id="no answer"),
        pytest.param(
            {"messages": [CHAT[0], {"role": "assistant", "content": "  "}]}, "Row 2: has an empty answer.", id="blank"
        ),
        pytest.param({"messages": "text"}, "Row 2: does not have the layout messages.", id="text for a list"),
        pytest.param({"messages": [{"role": "user"}]}, "Row 2: does not have the layout messages.", id="no content"),
        pytest.param({"other": 1}, "Row 2: does not have the layout messages.", id="another layout"),
        pytest.param(
            {"messages": [{"role": "boss", "content": "x"}]}, "Row 2: has the unknown role 'boss'", id="unknown role"
        ),
        pytest.param(
            {"messages": [{"role": "assistant", "content": 7}]}, "Row 2: every content must be text.", id="a number"
        ),
        pytest.param("[" * 100_000, "Row 2: is not valid JSON", id="nested without end"),
    ],
)
def test_a_row_that_cannot_be_used_is_skipped_with_its_number(tmp_path, row, sentence):
    path = tmp_path / "data.jsonl"
    lines = [json.dumps({"messages": CHAT}), row if isinstance(row, str) else json.dumps(row)]
    path.write_text("\n".join(lines))
    good, bad = examples(DataSource(path=str(path)))
    assert isinstance(good, Example)
    assert isinstance(bad, Finding)
    assert bad.sentence.startswith(sentence)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        pytest.param("a.jsonl", b"", "must have at least one row", id="empty"),
        pytest.param("a.json", b"{", "must be valid JSON", id="broken json"),
        pytest.param("a.json", b"3", "must hold a list of objects", id="a number"),
        pytest.param("a.parquet", b"PAR1 nothing", "cannot be read as parquet", id="broken parquet"),
        pytest.param("a.csv", b"\xff\xfe\x00a", "must be text in UTF-8", id="not UTF-8"),
        pytest.param("a.docx", b"x", r"must end in \.jsonl, \.json", id="unknown ending"),
        pytest.param("a", b"x", "must end in", id="no ending"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_a_sentence(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        list(examples(DataSource(path=str(path))))


def test_a_file_that_does_not_exist_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(DataError, match="is no file"):
        list(examples(DataSource(path=str(tmp_path / "none.jsonl"))))


def test_only_answers_are_learned(tiny_tokenizer):
    turns = (
        Turn(role="system", content="Be short."),
        Turn(role="user", content="One?"),
        Turn(role="assistant", content="Yes."),
        Turn(role="user", content="Two?"),
        Turn(role="assistant", content="No."),
    )
    text = rendered(Example(row=1, turns=turns), tiny_tokenizer)
    assert "".join(piece for piece, _ in text.pieces()) == text.text
    assert [piece for piece, learned in text.pieces() if learned] == ["Yes.<|im_end|>\n", "No.<|im_end|>\n"]
    tokens = labelled(text, tiny_tokenizer, max_length=500, whole=False)
    learned = [token for token in tokens["labels"] if token != IGNORED]
    assert tiny_tokenizer.decode(learned) == "Yes.<|im_end|>\nNo.<|im_end|>\n"
    whole = labelled(text, tiny_tokenizer, max_length=500, whole=True)
    assert whole["labels"] == whole["input_ids"] == tokens["input_ids"]


def test_what_lies_beyond_max_length_is_cut_and_nothing_left_is_told(tiny_tokenizer):
    text = rendered(Example(row=1, turns=ASKED), tiny_tokenizer)
    assert labelled(text, tiny_tokenizer, max_length=3, whole=False) is None
    cut = labelled(text, tiny_tokenizer, max_length=3, whole=True)
    assert len(cut["input_ids"]) == len(cut["labels"]) == 3


def test_a_model_without_chat_template_gets_plain_headings(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    text = rendered(Example(row=1, turns=ASKED), tokenizer)
    assert text.text == "### User:\nHi?\n\n### Assistant:\nHello.<|im_end|>"
    assert [piece for piece, learned in text.pieces() if learned] == ["Hello.<|im_end|>"]


@given(
    contents=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=6
    )
)
def test_every_learned_span_lies_in_the_text_and_in_order(tiny_tokenizer, contents):
    turns = tuple(
        Turn(role="assistant" if index % 2 else "user", content=content) for index, content in enumerate(contents)
    )
    text = rendered(Example(row=1, turns=turns), tiny_tokenizer)
    flat = [edge for span in text.learned for edge in span]
    assert flat == sorted(flat)
    assert "".join(piece for piece, _ in text.pieces()) == text.text
    answers = "".join(turn.content for turn in turns if turn.role == "assistant")
    assert len("".join(piece for piece, learned in text.pieces() if learned)) >= len(answers)


def test_the_light_tokenizer_agrees_with_transformers(tiny_model):
    light, full = FolderTokenizer(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    example = Example(row=1, turns=(Turn(role="user", content="Wie heißt du?"), *ASKED[1:]))
    assert rendered(example, light) == rendered(example, full)
    text = rendered(example, light)
    assert labelled(text, light, max_length=99, whole=False) == labelled(text, full, max_length=99, whole=False)


def test_a_template_may_not_reach_out_of_its_sandbox(tiny_model, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((tiny_model / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(DataError, match="refused by the model's chat template"):
        rendered(Example(row=1, turns=ASKED), FolderTokenizer(tmp_path))


def test_a_folder_without_tokenizer_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(SpecError, match="must have a readable"):
        FolderTokenizer(tmp_path)


def test_the_doctor_counts_what_is_there(tmp_path, tiny_model):
    path = tmp_path / "data.jsonl"
    rows = [{"messages": [CHAT[0], {"role": "assistant", "content": "word " * n}]} for n in range(1, 21)]
    lines = [json.dumps(row) for row in [*rows, rows[0], rows[0]]]
    path.write_text("\n".join([*lines, "{", '{"messages": []}']))
    report = examined(DataSource(path=str(path)), FolderTokenizer(tiny_model))
    assert (report.layout, report.rows, report.skipped, report.duplicates) == ("messages", 22, 2, 2)
    assert len(report.lengths) == 22
    assert len(report.previews) == 5
    assert [finding.row for finding in report.findings] == [23, 24]
    assert sum(count for *_, count in report.histogram(7)) == 22
    assert report.share_truncated(report.lengths[-1]) == 0
    assert report.share_truncated(0) == 1
    assert report.quantile(0) == report.lengths[0]
    assert report.quantile(1) == report.lengths[-1]


@given(lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=60), bins=st.integers(1, 40))
def test_histogram_and_truncation_count_every_row(lengths, bins):
    report = Report(
        layout="", rows=0, skipped=0, findings=(), duplicates=0, lengths=tuple(sorted(lengths)), previews=()
    )
    assert sum(count for *_, count in report.histogram(bins)) == len(lengths)
    assert len(report.histogram(bins)) <= bins
    shares = [report.share_truncated(limit) for limit in range(0, 5001, 250)]
    assert shares == sorted(shares, reverse=True)


def test_the_demo_data_is_sound():
    report = examined(DataSource(path=str(paths.demo_data())))
    assert (report.layout, report.skipped, report.duplicates) == ("messages", 0, 0)
    assert report.rows >= 300


@pytest.mark.slow
def test_a_large_file_is_examined_in_a_stream(tmp_path, tiny_model):
    path = tmp_path / "large.jsonl"
    answer = "word " * 450
    with path.open("w") as stream:
        for number in range(50_000):
            stream.write(json.dumps({"prompt": f"Question {number}?", "completion": answer}) + "\n")
    assert path.stat().st_size > 100 * 2**20
    tokenizer, before = FolderTokenizer(tiny_model), psutil.Process().memory_info().rss
    held = []
    source = DataSource(path=str(path))
    report = examined(source, tokenizer, progress=lambda _: held.append(psutil.Process().memory_info().rss))
    assert report.rows == 50_000
    assert 2_000 <= len(report.lengths) <= 4_000
    assert max(held) - before < 60 * 2**20


def test_layouts_are_distinct():
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
