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
    right = row["canonical_solution"] if row is HUMAN_EVAL else "def f(): return 1"
    assert ended(tested.test_of(row), answer, right).startswith(end)


# What answers do to pass without being right; each is followed by its own wrong function where it needs one.
WRONG = "def add(a, b):\n    return 0\n"
TRICKS = {
    "the status that a sandbox might end with": "import sys\nsys.exit(125)",
    "an end before the tests": "import os\nos._exit(0)",
    "an end in the function": "import os\ndef add(a, b):\n    os._exit(0)",
    "an exit in the function": "import sys\ndef add(a, b):\n    sys.exit(0)",
    "its own source": f"{WRONG}print(open('/tmp/program.py').read(), flush=True)",
    "a beginning that swallows the tests": f"{WRONG}try:\n    pass",
    "a closed output": f"{WRONG}import os\nos.close(1)\nos.close(2)",
    "every file closed": f"{WRONG}import os\nos.closerange(0, 100)",
    "words into every file": f"{WRONG}import os\nfor one in range(3, 90):\n    try:\n"
    "        os.write(one, b'{\"gave\": 3}\\n' * 9)\n    except OSError:\n        pass",
    "something at the end": f"{WRONG}import atexit, os\natexit.register(lambda: os.write(1, b'passed'))",
    "a trace": f"{WRONG}import sys\nsys.settrace(lambda frame, *_: frame.f_globals.update(passed=True))",
    "builtins of its own": f"{WRONG}import builtins\nbuiltins.AssertionError = type('E', (Exception,), {{}})\n"
    "builtins.compile = builtins.exec = lambda *_: None",
    "a thread that ends everything": f"{WRONG}import os, threading\nthreading.Timer(0.01, lambda: os._exit(0)).start()",
    "an object that equals everything": "class Any:\n    def __eq__(self, other):\n        return True\n"
    "def add(a, b):\n    return Any()",
    "a number that equals everything": "class Any(int):\n    def __eq__(self, other):\n        return True\n"
    "def add(a, b):\n    return Any(0)",
    "frames of who calls": "import sys\ndef add(a, b):\n    frame = sys._getframe()\n    while frame:\n"
    "        frame.f_globals['passed'] = True\n        frame = frame.f_back\n    return 0",
    "a check of its own": f"{WRONG}def check(candidate):\n    pass",
    "all that is in memory": f"{WRONG}import gc, types\nfor one in gc.get_objects():\n    if isinstance(one, dict):\n"
    "        one.setdefault('passed', True)",
}


@needs_sandbox
@pytest.mark.parametrize("trick", TRICKS)
def test_nothing_that_an_answer_does_makes_it_pass_but_to_be_right(trick):
    end = ended(tested.test_of(HUMAN_EVAL), TRICKS[trick], HUMAN_EVAL["canonical_solution"])
    assert end.startswith(("AssertionError", "ended with status", "stopped", "SyntaxError", "TypeError")), end


POINT = """
class Point:
    def __init__(self, x, y): self.x, self.y = x, y
    def __eq__(self, other): return (self.x, self.y) == (other.x, other.y)
    def __add__(self, other): return Point(self.x + other.x, self.y + other.y)
    def __len__(self): return 2
    def __iter__(self): return iter((self.x, self.y))
class Refused(ValueError): pass
def halved(point):
    if point.x % 2: raise Refused('odd')
    point.x //= 2
"""
HANDED_OVER = {
    "objects": (POINT, "p = Point(1, 2)\nassert p + p == Point(2, 4) and len(p) == 2 and [*p] == [1, 2]"),
    "what is set": (POINT, "p = Point(1, 2)\np.x = 8\nhalved(p)\nassert p.x == 4 and isinstance(p, Point)"),
    "errors of its own": (
        POINT,
        "try:\n    halved(Point(1, 1))\n    assert False\nexcept Refused as e:\n    assert str(e) == 'odd'",
    ),
    "lists that are changed": (
        "def f(a):\n    a[0].append(1); a.sort()",
        "a = [[3], [2]]\nf(a)\nassert a == [[2], [3, 1]]",
    ),
    "functions both ways": (
        "def twice(f): return lambda x: f(f(x))",
        "assert twice(lambda x: x + 1)(1) == 3 and twice(str.upper)('a') == 'A'",
    ),
    "values of many kinds": (
        "from collections import Counter, deque\nfrom fractions import Fraction\n"
        "def same(*all): return all\ndef many(): yield from (1, 2)\ndef keys(d): return d.keys()",
        "x = (1.5, float('inf'), 10**5000, 'ä\\ud800', b'\\xff', {(1, 2): {3}}, None, 1j, Counter('aa'), deque([1]))"
        "\nx += (Fraction(1, 3),)\nassert same(*x) == x and [*many()] == [1, 2] and keys({1: 2}) == {1}",
    ),
    "an object of the tests": (
        "def last(node):\n    while node.next: node = node.next\n    node.value += 1\n    return node",
        "class Node:\n    def __init__(self, value, next): self.value, self.next = value, next\n"
        "end = Node(2, None)\nassert last(Node(1, end)) is end and end.value == 3",
    ),
    "imports of the answer": ("import math\ndef f(x): return math.sin(x)", "assert math.isclose(f(0.0), 0.0)"),
    "a name of Python's own": ("def sum(a, b): return a + b", "assert sum(1, 2) == 3"),
    "a cache": ("from functools import lru_cache\n@lru_cache\ndef f(n): return n and f(n - 1)", "assert f(9) == 0"),
    "a data class": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(): return P(1)",
        "assert f() == P(1) and repr(f()) == 'P(x=1)'",
    ),
}


@needs_sandbox
@pytest.mark.parametrize("what", HANDED_OVER)
def test_what_tests_share_with_their_answer_is_handed_over(what):
    answer, test = HANDED_OVER[what]
    assert ended(RowTest(code=test), answer, answer) == PASSED


@needs_sandbox
def test_the_tests_take_nothing_from_an_answer_that_the_right_one_does_not_define():
    test, right = RowTest(code="assert abs(f() - 2) < 1"), "def f(): return 2"
    assert ended(test, "def f(): return 9\ndef abs(x): return 0", right) == "AssertionError"
    caught = RowTest(code="try:\n    f()\nexcept BaseException:\n    pass")
    assert ended(caught, "import os\ndef f(): os._exit(0)", right) == "ended with status 0"
    with_callback = RowTest(code="def seen(x): assert x == 2\nf(seen)")
    swallowed = "def f(told):\n    try: told(1)\n    except BaseException: pass"
    assert ended(with_callback, swallowed, "def f(told): told(2)").startswith("AssertionError")
    reached = "def f(told):\n    told.__globals__['x'] = 2\n    return 1"
    assert ended(RowTest(code="x = 1\nf(lambda: 1)\nassert x == 2"), reached, right).startswith(
        ("Attr", "Key", "Assert")
    )


@needs_sandbox
def test_an_answer_that_takes_too_long_is_told(monkeypatch):
    monkeypatch.setattr(running, "SECONDS", 1)
    assert ended(RowTest(code="pass"), "while True: pass", "x = 1") == "took longer than 1 seconds"


@needs_sandbox
def test_tests_that_the_data_itself_fails_are_left_out_and_said():
    tests = {number: RowTest(code="assert x == 1") for number in range(3)}
    code = Code(tests, {0: "x = 1", 1: "x = 2", 2: "x = 1", 3: "no test"})
    said = {BASE: {0: "x = 0", 1: "x = 1", 2: "x = 1", 3: ""}, TUNED: dict.fromkeys(range(4), "x = 1")}
    assert [sum(code.read(voice, said[voice], threading.Event())) for voice in (TUNED, BASE)] == [3, 3]
    (found,) = code.compared()
    assert (found.base, found.tuned, found.rows, found.counts) == (0.5, 1.0, 2, True)
    assert code.notes == ("1 of 3 tests are left out: the answer in the data does not pass them.",)
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
