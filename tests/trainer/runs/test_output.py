"""What the processes of a run print: whole lines without secrets, whoever prints them, also on a full disk."""

import io
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from specs.paths import REPO
from trainer.runs.output import Output

PRINTING = """
import logging, sys, warnings
from trainer.runs.output import guard_output
guard_output()
secret = "correct horse battery"
logging.basicConfig()
logging.getLogger("somebody").warning("logged %s", secret)
warnings.warn(f"warned {secret}")
print("printed in two pieces: correct ", end="", flush=True)
print("horse battery")
print(f"never ended: {secret}", end="")
sys.stderr.writelines([secret, "\\n"])
raise ValueError(secret)
"""


def test_whatever_prints_a_secret_it_is_hidden():
    done = subprocess.run(
        [sys.executable, "-c", PRINTING],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPO,
        env={**os.environ, "MY_API_KEY": "correct horse battery"},
    )
    assert "correct horse battery" not in done.stdout + done.stderr.replace('secret = "correct horse battery"', "")
    assert done.stdout == "printed in two pieces: [hidden]\nnever ended: [hidden]"
    for said in ("logged [hidden]", "warned [hidden]", "ValueError: [hidden]"):
        assert said in done.stderr


def test_a_log_that_cannot_grow_ends_nothing():
    with suppress(OSError), Path("/dev/full").open("w", buffering=1) as full:
        output = Output(full)
        assert output.write("a\n") == 2
        output.flush()
        output.write("b")
        output.finish()
        output.flush()


@pytest.mark.parametrize("pieces", [["a\nb"], ["a", "\n", "b"], ["", "a\nb", ""]])
def test_lines_come_out_as_they_went_in(pieces):
    stream = io.StringIO()
    output = Output(stream)
    for piece in pieces:
        output.write(piece)
    assert stream.getvalue() == "a\n"
    output.finish()
    assert stream.getvalue() == "a\nb"
