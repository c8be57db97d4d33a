"""What a killed process was writing is swept by whoever starts next, and what a living one writes is left alone."""

import signal
import subprocess
import sys

import pytest

from trainer import files
from trainer.runs import launcher

WRITER = """
import sys, time
from pathlib import Path
from trainer import files
with files.scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writing(store):
    """Starts a process that writes into a run's folder, as a merge does."""
    home = store.folder / "20261126-101010-abcd"
    home.mkdir()
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(home)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip().startswith(str(home / ".writing-"))
    with process:
        yield home, process
        process.kill()


def test_the_leftovers_of_a_killed_merge_are_swept_when_a_door_opens(store, writing):
    home, process = writing
    launcher.start_waiting(store)
    assert len(list(home.glob(".writing-*/half"))) == 1, "its writer lives"
    process.send_signal(signal.SIGKILL)
    process.wait()
    launcher.start_waiting(store)
    assert list(home.iterdir()) == []


def test_a_new_merge_into_the_same_folder_sweeps_the_leftovers_too(writing):
    home, process = writing
    process.send_signal(signal.SIGKILL)
    process.wait()
    with files.replaced(home / "merged") as folder:
        (folder / "whole").touch()
    assert [path.name for path in home.iterdir()] == ["merged"]
