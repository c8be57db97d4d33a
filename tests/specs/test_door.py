"""A command line whose reader has gone exits without complaint."""

import os
import subprocess
import sys

import pytest

MODEL = ["--model", "HuggingFaceTB/SmolLM2-135M-Instruct"]
COMMANDS = {
    "trainer": ["list"],
    # A shipped tape: a trace would tell its progress.
    "estimator": [*MODEL, "--gpu", "8 GiB", "--method", "qlora", "--lora-dropout", "0.05", "--autocast"],
    "advisor": [*MODEL, "--vram-gib", "8"],
}


@pytest.mark.parametrize(("module", "arguments"), COMMANDS.items(), ids=COMMANDS)
def test_a_command_line_exits_quietly_when_nobody_reads_any_more(tmp_path, module, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LORAFIT_RUNS": str(tmp_path)},
        check=False,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")
