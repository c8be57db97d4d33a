"""The doctor counts what is there and says what is wrong with it."""

import dataclasses
import json

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs import DataError, dataset, paths
from trainer.data.doctor import Report, examined
from trainer.data.source import DataSource
from trainer.data.tokenizer import FamilyTokenizer, FolderTokenizer

CHAT = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
EMPTY = Report(
    layout="",
    task="answers",
    rows=0,
    skipped=0,
    reasons={},
    findings=(),
    unused={},
    labels={},
    duplicates=0,
    lengths=(),
    previews=(),
    whole=True,
)


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
    report = dataclasses.replace(EMPTY, lengths=tuple(sorted(lengths)))
    assert sum(count for *_, count in report.histogram(bins)) == len(lengths)
    assert len(report.histogram(bins)) <= bins
    shares = [report.share_truncated(limit) for limit in range(0, 5001, 250)]
    assert shares == sorted(shares, reverse=True)


def test_the_demo_data_is_sound():
    report = examined(DataSource(path=str(paths.demo_data())))
    assert (report.layout, report.skipped, report.duplicates) == ("messages", 0, 0)
    assert report.rows >= 300


def test_the_longest_row_is_counted_even_beyond_the_sample(tmp_path, tiny_model):
    path = tmp_path / "data.jsonl"
    answers = ["word"] * 9_000
    answers[8_001] = "word " * 300  # an odd row: of 9,000 every second and later every fourth are in the sample
    lines = (json.dumps({"prompt": f"{number}?", "completion": answer}) for number, answer in enumerate(answers))
    path.write_text("\n".join(lines))
    report = examined(DataSource(path=str(path)), FolderTokenizer(tiny_model))
    assert report.longest > 300 > 10 * report.lengths[-1]


def test_rows_with_reasoning_are_counted_in_both_forms(tmp_path):
    path = tmp_path / "data.jsonl"
    said = [{"content": "<think>\nHm.\n</think>\n4"}, {"content": "4", "reasoning_content": "Hm."}, {"content": "4"}]
    rows = [{"messages": [CHAT[0], {"role": "assistant", **answer}]} for answer in said]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert examined(DataSource(path=str(path), thinking="drop")).traits[dataset.REASONING] == 2


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


def write(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return DataSource(path=str(path))


GOOD = {"messages": CHAT}


def test_columns_and_keys_that_were_not_read_are_counted(tmp_path):
    extra = {"messages": [{**CHAT[0], "mood": "glad"}, CHAT[1]], "id": 7, "topic": "sums", "notes": None}
    report = examined(write(tmp_path, GOOD, extra, extra))
    assert report.unused == {"id": 2, "topic": 2, "messages.mood": 2}


def test_one_row_that_the_template_refuses_is_one_finding(tmp_path, tiny_model):
    tokenizer = FolderTokenizer(tiny_model)
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    tokenizer.chat_template = refusing + tokenizer.chat_template
    bad = {"messages": [{"role": "system", "content": "Sing."}, *CHAT]}
    report = examined(write(tmp_path, *[GOOD] * 5, bad, *[GOOD] * 5), tokenizer)
    assert (report.rows, report.skipped) == (10, 1)
    assert [finding.sentence for finding in report.findings] == [
        "Row 6: the model's chat template refuses it: no system role."
    ]


@pytest.mark.parametrize(
    ("good", "bad", "refused"),
    [
        pytest.param(1, 1, False, id="one row alone never refuses a file"),
        pytest.param(18, 2, False, id="a tenth"),
        pytest.param(17, 2, True, id="more than a tenth"),
        pytest.param(0, 1, True, id="nothing is left"),
    ],
)
def test_more_than_a_tenth_bad_refuses_the_file(tmp_path, good, bad, refused):
    source = write(tmp_path, *[GOOD] * good, *[{"messages": [{"role": "boss", "content": "x"}]}] * bad)
    if not refused:
        assert examined(source).skipped == bad
        return
    with pytest.raises(DataError):
        examined(source)


def test_a_refusal_names_the_three_commonest_reasons_in_one_short_sentence(tmp_path):
    wrong = [{"messages": [{"role": name, "content": "x"}]} for name in ("a" * 70, "b", "b", "c", "c", "c", "d")]
    with pytest.raises(DataError, match="7 of 8 rows cannot be trained on") as caught:
        examined(write(tmp_path, GOOD, *wrong))
    assert "Commonest: 3 x message 1 has the unknown role 'c'; 2 x message 1" in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_a_null_in_the_first_row_hides_no_layout(tmp_path):
    report = examined(
        write(tmp_path, {"instruction": "Hi", "output": None}, *[{"instruction": "Hi", "output": "Yo"}] * 5)
    )
    assert (report.layout, report.rows) == ("alpaca", 5)
    assert [finding.sentence for finding in report.findings] == ["Row 1: output is empty."]


def test_the_first_rows_are_examined_alone_where_that_is_asked(tmp_path):
    report = examined(write(tmp_path, *[GOOD] * 20), first_rows=7)
    assert (report.rows, report.whole) == (7, False)
    assert examined(write(tmp_path, *[GOOD] * 7), first_rows=7).whole


def test_rows_that_differ_in_a_call_alone_are_no_duplicates(tmp_path):
    def calling(city):
        call = {"function": {"name": "f", "arguments": {"city": city}}}
        return {"messages": [CHAT[0], {"role": "assistant", "content": "", "tool_calls": [call]}]}

    assert examined(write(tmp_path, calling("Oslo"), calling("Rome"), calling("Oslo"))).duplicates == 1


def test_a_file_without_model_is_shown_by_a_template_of_a_family(tmp_path):
    report = examined(write(tmp_path, GOOD), FamilyTokenizer("llama3_1"))
    assert report.lengths == ()
    assert [piece for piece, learned in report.previews[0].pieces if learned] == ["Hello.<|eot_id|>"]


def test_splits_that_nobody_reads_are_counted(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": [GOOD] * 3, "validation": [GOOD] * 2, "test": [GOOD]}))
    assert examined(DataSource(path=str(path), evaluation_split="test")).unused == {"split validation": 2}
