"""500 hostile inputs to the command lines, in one process: each is answered in a sentence, soon, in little memory."""

import random
import subprocess
import sys

from scripts.fuzz_doors import Answer

SEED = random.SystemRandom().randrange(10**6)


def test_every_hostile_input_is_answered_in_a_sentence() -> None:
    command = [sys.executable, "-m", "scripts.fuzz_doors", "--count", "500", "--seed", str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"seed {SEED}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
    assert f"seed {SEED}\n500 inputs, 0 answered badly" in done.stdout


def test_a_bad_answer_is_complained_about() -> None:
    good = Answer(2, "model: is unknown.\n", 0.1, 0)
    assert good.complaint() == ""
    assert Answer(0, "", 0.1, 0).complaint() == ""
    assert Answer(-11, "x", 0.1, 0).complaint() == "exit status -11"
    assert Answer(2, "", 0.1, 0).complaint() == "no sentence"
    assert Answer(2, "Traceback (most recent call last)\n", 0.1, 0).complaint() == "a fault of its own"
    assert Answer(2, "a\nb\nc\n", 0.1, 0).complaint() == "3 lines"
    assert Answer(2, "... tracing\n... tracing\na\n", 0.1, 0).complaint() == ""
    assert Answer(2, "x" * 301, 0.1, 0).complaint() == "a line that is too long"
    assert Answer(2, "a", 11, 2 << 30).complaint() == "11 seconds, 2048 MiB more memory"
