"""Every command line ends in one sentence at most, whatever happens to its streams and while it loads."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from specs.doors.door import door
from specs.errors import LONGEST, LorafitError
from tests.patience import PATIENCE

MODEL = ["--model", "HuggingFaceTB/SmolLM2-135M-Instruct"]
COMMANDS = {
    "trainer": ["list"],
    # A shipped tape: a trace would tell its progress.
    "estimator": [*MODEL, "--gpu", "8 GiB", "--method", "qlora", "--autocast"],
    "advisor": [*MODEL, "--vram-gib", "8"],
    "catalog": ["models"],
}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """No command here waits for a tape that is traced first, or says that it does."""
    monkeypatch.setenv("LORAFIT_CACHE", str(tmp_path / "cache"))


def started(module, *arguments, runs, **streams):
    environment = {**os.environ, "LORAFIT_RUNS": str(runs)}
    return subprocess.Popen([sys.executable, "-m", module, *arguments], text=True, env=environment, **streams)


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


@pytest.mark.parametrize(("module", "arguments"), COMMANDS.items(), ids=COMMANDS)
def test_a_full_disk_behind_the_output_is_told_in_one_sentence(tmp_path, module, arguments):
    with Path("/dev/full").open("w") as full:
        process = started(module, *arguments, runs=tmp_path, stdout=full, stderr=subprocess.PIPE)
        said = process.communicate()[1]
    assert process.returncode == 2
    assert len(said.splitlines()) == 1
    assert "full disk" in said


@pytest.mark.parametrize("module", COMMANDS)
def test_wrong_arguments_are_told_in_one_sentence_even_if_they_are_no_text(tmp_path, module):
    wrong = os.fsdecode(b"--\xff\xfe\n") + "x" * 90_000
    process = started(module, wrong, runs=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    printed, said = process.communicate()
    assert (process.returncode, printed) == (2, "")
    assert len(said.splitlines()) == 1
    assert len(said) <= LONGEST
    assert f"See python -m {module} --help." in said


@pytest.mark.parametrize("module", COMMANDS)
def test_ctrl_c_while_a_command_line_loads_ends_it_without_a_traceback(module):
    command = [sys.executable, "-X", "importtime", "-m", module, *COMMANDS[module]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    before = []
    for line in process.stderr:
        before.append(line.split()[-1])
        if before[-1] == "specs.doors.interruption":
            process.send_signal(signal.SIGINT)
            break
    said = process.communicate()[1]
    assert process.returncode == -signal.SIGINT
    assert [line for line in said.splitlines() if not line.startswith("import time:")] == ["Interrupted."]
    assert not {"argparse", "dataclasses", "json", "typing"} & set(before)


def test_without_a_terminal_the_token_is_not_waited_for(tmp_path):
    process = started(
        "trainer",
        "push",
        "20261126-101010-abcd",
        "me/x",
        runs=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 2
    assert said == "token: is asked for in a terminal, and there is none. Set HF_TOKEN.\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(PermissionError(13, "no", "/x/y"), "/x/y: may not be read or written by this user", id="refused"),
        pytest.param(OSError(28, "no", "/x/y"), "/x/y: is on a full disk", id="full"),
        pytest.param(OSError(28, "no", "/x/y", None, "/z/y"), "/z/y: is on a full disk", id="a copy on a full disk"),
        pytest.param(
            SafetensorError("I/O error: No space (os error 28)"),
            "a file or the output: is on a full disk",
            id="weights",
        ),
        pytest.param(OSError(30, "no", "/x/y"), "/x/y: is on a read-only disk", id="read-only"),
        pytest.param(OSError(40, "no", "/x/y"), "/x/y: is a link that leads back to itself", id="a loop"),
        pytest.param(RecursionError(), "input: is nested too deeply", id="nesting"),
        pytest.param(OverflowError("int too large"), "number: is larger than", id="a huge number"),
        pytest.param(MemoryError(), "memory: is not enough", id="memory"),
        pytest.param(EOFError(), "input: ended before an answer", id="no terminal"),
        pytest.param(KeyboardInterrupt(), "Interrupted.", id="Ctrl-C"),
        pytest.param(LorafitError("a", "b"), "a: b.", id="a refusal"),
        pytest.param(TypeError("x\ny" * 900), "LoRAFit: has a fault: TypeError", id="our own fault"),
    ],
)
def test_whatever_goes_wrong_behind_a_door_is_one_sentence(tmp_path, monkeypatch, capsys, error, said):
    monkeypatch.setenv("LORAFIT_CACHE", str(tmp_path))

    @door
    def main(_):
        raise error

    assert main([]) == (130 if isinstance(error, KeyboardInterrupt) else 2)
    printed = capsys.readouterr().err
    assert printed.startswith(said)
    assert len(printed.splitlines()) == 1
    assert len(printed) <= LONGEST + 1


def test_the_traceback_of_our_own_fault_is_kept_for_this_user_alone_and_without_tokens(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LORAFIT_CACHE", str(tmp_path))
    monkeypatch.setenv("SOME_API_KEY", "correct horse battery")
    token = "hf_" + "aB3" * 12

    @door
    def main(_):
        raise ValueError(f"refused correct horse battery and {token}")

    main([])
    kept = tmp_path / "fault.txt"
    assert kept.stat().st_mode & 0o777 == 0o600
    for text in (kept.read_text(), capsys.readouterr().err):
        assert "ValueError" in text
        assert "refused [hidden] and [hidden]" in text
        assert token not in text
