"""Answers that are code, run with the tests of their rows: how many pass."""

import re
from collections.abc import Iterator, Mapping, Sequence
from threading import Event

from trainer.data.tested import RowTest
from trainer.failure import StopRequestedError
from trainer.results import judgement
from trainer.results.chat import BASE, TUNED
from trainer.results.judgement import Compared
from trainer.sandbox import running
from trainer.sandbox.offered import offered

LONGEST_CODE = 512
"""Tokens that an answer may have where it is run: the longest of HumanEval's own solutions takes 400 to 500, by
tokenizer, and most take less than 150."""
PASSED = "passed"
_FENCED = re.compile(r"```[ \t]*[\w+-]*[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
_MOST_SHOWN = 200


class Code:
    """The tests of some rows, and which answers pass them."""

    def __init__(self, tests: Mapping[int, RowTest], right: Mapping[int, str]) -> None:
        """Note what is to be run, and nothing more.

        Args:
            tests: The tests of rows.
            right: The answers in the data to the questions of rows, of which those with a test count.
        """
        self._tests = {number: tests[number] for number in right if number in tests}
        self._right = {number: right[number] for number in self._tests}
        self._sound: set[int] | None = None
        self._ends: dict[str, dict[int, str]] = {}

    @property
    def work(self) -> int:
        """How many answers of one model are run."""
        return len(self._tests)

    def read(self, voice: str, said: Mapping[int, str], stop: Event) -> Iterator[int]:
        """Run a model's answers, before the first ones those of the data: a test that these fail says nothing."""
        if self._sound is None:
            ends = dict(self._each(self._right, stop))
            self._sound = {number for number, end in ends.items() if end == PASSED}
        self._ends[voice] = {}
        for number, end in self._each({number: said[number] for number in self._tests}, stop):
            self._ends[voice][number] = end
            yield 1

    def _each(self, answers: Mapping[int, str], stop: Event) -> Iterator[tuple[int, str]]:
        for number, answer in answers.items():
            if stop.is_set():
                raise StopRequestedError
            yield number, ended(self._tests[number], answer, self._right[number])

    def compared(self) -> Iterator[Compared]:
        """Yield how many answers pass, one for each question: pass@1 of answers that are written without sampling."""
        if self._sound:
            base, tuned = (
                [float(self._ends[voice][n] == PASSED) for n in sorted(self._sound)] for voice in (BASE, TUNED)
            )
            yield judgement.scores("passed", "Tests passed (pass@1)", base, tuned)

    @property
    def notes(self) -> Sequence[str]:
        """What was left out, in a sentence, if anything was."""
        wrong = len(self._tests) - len(self._sound or ())
        if not wrong:
            return ()
        return (f"{wrong:,} of {len(self._tests):,} tests are left out: the answer in the data does not pass them.",)

    def told(self, number: int) -> Mapping[str, str]:
        """Return how the answers to a question ended; nothing where there is no test."""
        if number not in self._tests:
            return {}
        broken = {} if self._sound and number in self._sound else {"test": "fails with the answer in the data"}
        return {"base_ended": self._ends[BASE][number], "tuned_ended": self._ends[TUNED][number], **broken}


def ended(test: RowTest, answer: str, right: str) -> str:
    """Return how an answer ends when it is run with its test: ``PASSED``, or why not.

    Args:
        test: The test.
        answer: The answer.
        right: The answer in the data, which says what the test may take from an answer.
    """
    own = offered(_whole(test, _code(right)), test.entry_point)
    check = f"check({test.entry_point})" if test.entry_point and re.search(r"^def check\(", test.code, re.M) else ""
    # What is set up may be needed on both sides: a class, or what the answer was told to be imported.
    answered = (_whole(test, _code(answer)), test.before)
    found = running.tested(answered, (own.imports, test.before, test.code, check), own)
    if found.told.get("passed"):
        return PASSED
    if found.tests.is_late:
        return f"took longer than {running.SECONDS} seconds"
    error = str(found.told.get("error", "")).strip().rpartition("\n")[2].strip()
    one = found.answer if found.told.get("gone") else found.tests
    if one.is_cut_off:
        return "stopped talking to its test"
    return error[:_MOST_SHOWN] or f"ended with status {one.status}"


def _code(answer: str) -> str:
    """Return the code of an answer: its first fenced block, or all of it."""
    found = _FENCED.search(answer)
    return found[1] if found else answer


def _whole(test: RowTest, code: str) -> str:
    """Return code with the beginning of its function before it, where it goes on with that."""
    if not test.begun or re.search(rf"^\s*(async +)?def +{re.escape(test.entry_point)}\b", code, re.M):
        return code
    # An answer is kept without the blanks before it, which its first line needs.
    last = test.begun.rstrip().rpartition("\n")[2]
    inner = " " * (len(last) - len(last.lstrip()) + (4 if last.endswith(":") else 0))
    goes_on = code[:1].strip() and not re.match(r"(def|class|import|from|@)\b", code)
    return f"{test.begun.rstrip()}\n{inner if goes_on else ''}{code}"
