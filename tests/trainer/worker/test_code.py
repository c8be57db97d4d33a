"""Answers that are code: what is run of them, with which test, and what is said of those that do not pass."""

import threading

import pytest

from trainer.data import tested
from trainer.data.source import DataSource
from trainer.data.tested import RowTest, brings_tests
from trainer.failure import StopRequestedError
from trainer.results.chat import BASE, TUNED
from trainer.sandbox import running
from trainer.worker.judging.code import PASSED, Code, ended

HUMAN_EVAL = {
    "prompt": 'def add(a: int, b: int) -> int:\n    """Add two numbers."""\n',
    "canonical_solution": "    return a + b\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1, 2) == 3, 'sum'\n",
    "entry_point": "add",
}
RIGHT = "def add(a, b):\n    return a + b"
MBPP = {"text": "One.", "test_list": ["assert f() == 1", "assert pi > 3"], "test_setup_code": "from math import pi"}
needs_sandbox = pytest.mark.skipif(running._way() is None, reason="this system gives no namespaces")


@needs_sandbox
@pytest.mark.parametrize(
    ("row", "answer", "end"),
    [
        pytest.param(HUMAN_EVAL, "return a + b", PASSED, id="goes on with the question"),
        pytest.param(HUMAN_EVAL, "c = a\n    return c + b", PASSED, id="goes on, without the blanks before it"),
        pytest.param(HUMAN_EVAL, f"Sure:\n```python\n{RIGHT}\n```\n```\n(\n```", PASSED, id="fenced"),
        pytest.param(HUMAN_EVAL, f"```py\n{RIGHT}", PASSED, id="cut before the fence ends"),
        pytest.param(HUMAN_EVAL, f"{RIGHT}\nif __name__ == '__main__':\n    input()", PASSED, id="a program"),
        pytest.param(HUMAN_EVAL, "return a - b", "AssertionError: sum", id="wrong"),
        pytest.param(HUMAN_EVAL, "def add(a, b): return 3\nexit(0)", "ended with status", id="ends before its test"),
        pytest.param(HUMAN_EVAL, "x = '''", "SyntaxError", id="swallows its test"),
        pytest.param(MBPP, "def f(): return 1", PASSED, id="a list of lines, and imports"),
        pytest.param(MBPP, "def f(): return 2", "AssertionError", id="a line that fails"),
    ],
)
def test_an_answer_passes_if_the_program_comes_to_the_end_of_its_test(row, answer, end):
    assert ended(tested.test_of(row), answer).startswith(end)


@needs_sandbox
def test_an_answer_that_takes_too_long_is_told(monkeypatch):
    monkeypatch.setattr(running, "SECONDS", 1)
    assert ended(RowTest(code="pass"), "while True: pass") == "took longer than 1 seconds"


@needs_sandbox
def test_tests_that_the_data_itself_fails_are_left_out_and_said():
    tests = {number: RowTest(code="assert x == 1") for number in range(3)}
    code = Code(tests, {0: "x = 1", 1: "x = 2", 2: "x = 1", 3: "no test"})
    said = {BASE: {0: "x = 0", 1: "x = 1", 2: "x = 1", 3: ""}, TUNED: dict.fromkeys(range(4), "x = 1")}
    assert [sum(code.read(voice, said[voice], threading.Event())) for voice in (TUNED, BASE)] == [3, 3]
    (found,) = code.compared()
    assert (found.base, found.tuned, found.rows, found.counts) == (0.5, 1.0, 2, True)
    assert code.notes == ("1 of 3 tests are left out: the answer in the data fails them itself.",)
    assert code.told(0) == {"base_ended": "AssertionError", "tuned_ended": PASSED}
    assert code.told(1)["test"] == "fails with the answer in the data"
    assert code.told(3) == {}
    stop = threading.Event()
    stop.set()
    with pytest.raises(StopRequestedError):
        next(code.read(BASE, said[BASE], stop))


def test_tests_are_found_by_the_rows_of_the_file_whatever_role_a_column_plays(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "One?", "a": "x = 1", "tests": "assert x"}\n{"q": "Two?", "a": "x", "tests": " "}\n')
    source = DataSource(path=str(path), columns={"prompt": "q", "completion": "a"})
    assert tested.tests_of(source, [1, 2]) == {1: RowTest(code="assert x")}
    assert brings_tests(source)
    assert tested.test_of({"test": {"inputs": []}}) is None  # which nothing here can run
