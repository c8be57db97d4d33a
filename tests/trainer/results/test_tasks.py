"""Tasks in a process of their own end with whoever asked for them."""

import subprocess
import sys
import time

import psutil
import pytest

from specs.paths import REPO
from tests.patience import PATIENCE

# PEFT 0.21 reads a property that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

ASKER = """
import sys
from pathlib import Path
from trainer.results import tasks
from trainer.runs.store import Store
tasks.merge(Store(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]))
"""


def test_a_merge_ends_with_the_server_that_was_killed_and_leaves_nothing(store, adapter_run, tmp_path):
    target = tmp_path / "merged" / "model"
    command = [sys.executable, "-c", ASKER, str(store.folder), adapter_run(), str(target)]
    server = subprocess.Popen(command, cwd=REPO)
    until = time.monotonic() + PATIENCE
    while not (merging := psutil.Process(server.pid).children()) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(1)
    assert merging[0].is_running()
    server.kill()
    server.wait()
    _, alive = psutil.wait_procs(merging, timeout=PATIENCE)
    assert not alive
    assert not target.parent.exists()
