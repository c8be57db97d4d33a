"""What a process says of its own memory."""

import subprocess
import sys

from specs import MIB
from specs.paths import REPO

LARGE = """
import subprocess, sys
held = bytearray(1500 * 2**20)
for page in range(0, len(held), 4096):
    held[page] = 1
child = "from trainer.worker import memory; print(memory.peaks('cpu')['peak_used_bytes'], memory.used_bytes('cpu'))"
subprocess.run([sys.executable, "-c", child], check=True)
"""


def test_the_peak_of_a_process_is_its_own_and_not_that_of_who_started_it():
    done = subprocess.run([sys.executable, "-c", LARGE], cwd=REPO, capture_output=True, text=True, check=True)
    peak, now = map(int, done.stdout.split())
    assert now - 2 * MIB <= peak < 1000 * MIB
