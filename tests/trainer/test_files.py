"""What a killed process was writing is swept by whoever starts next, and what a living one writes is left alone."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from specs import RunError
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


def test_a_file_is_whole_or_not_there(tmp_path):
    target = tmp_path / "run.zip"

    def written(text, *, fails=False):
        with files.complete(target) as stream:
            stream.write(text)
            if fails:
                raise OSError(28, "No space left on device")

    written(b"first")
    with pytest.raises(RunError, match=r"run\.zip: cannot be written, got 'No space left on device'"):
        written(b"sec", fails=True)
    assert target.read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["run.zip"]
    target = tmp_path
    with pytest.raises(RunError, match="is a folder"):
        written(b"")


def test_a_new_folder_is_asked_for_by_its_own_name(tmp_path):
    files.require_new(tmp_path / "some" / "new")
    assert not (tmp_path / "some").exists()
    with files.replaced(tmp_path / "some" / "new"):
        pass
    assert (tmp_path / "some" / "new").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        files.require_new(tmp_path / "file" / "new")
    with pytest.raises(RunError, match=r"^/proc/1/foo: cannot be written"):
        files.require_new(Path("/proc/1/foo"))
    with pytest.raises(RunError, match="must be a new or empty folder"):
        files.require_new(tmp_path)
