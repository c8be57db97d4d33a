"""Programs that nobody has read: what they print comes back, and nothing that they try reaches anything else."""

import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from specs import RunError
from specs.paths import REPO
from trainer.sandbox import running

pytestmark = pytest.mark.skipif(running._way() is None, reason="this system gives no namespaces")

ESCAPES = {
    "the network of this machine": ("import socket; socket.create_connection(('127.0.0.1', {port}), 2)", "Error"),
    "the network": ("import socket; socket.create_connection(('192.0.2.1', 80), 2)", "OSError"),
    "a file of the person": ("print(open({secret!r}).read())", "FileNotFoundError"),
    "variables": (
        "import os; assert 'PATH' not in os.environ and 'HOME' not in os.environ; 1 / 0",
        "ZeroDivisionError",
    ),
    "processes without end": ("import os\nwhile True:\n    os.fork()", "BlockingIOError"),
    "memory without end": ("x = [bytearray(1 << 20) for _ in range(5000)]", "MemoryError"),
    "a file without end": ("f = open('big', 'wb')\nwhile True:\n    f.write(bytes(1 << 20))", "OSError"),
    "output without end": ("while True:\n    print('x' * 100000)", "xxx"),
    "what Python is made of": ("import os; open(os.__file__, 'a')", "Error: [Errno"),
    "a place beside its own": ("open('/usr/lib/mine', 'w')", "Read-only file system"),
    "a question to the person": ("input()", "EOFError"),
    "namespaces of its own": (
        "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0, 'no namespace'",
        "no namespace",
    ),
    "another user": ("import os; os.setuid(0)", "OSError"),
    "mounting": (
        "import ctypes; assert not ctypes.CDLL(None).mount(b'', b'/tmp', b'tmpfs', 0, 0), 'no mount'",
        "no mount",
    ),
}


@pytest.mark.parametrize("tried", ESCAPES)
def test_what_a_program_tries_is_refused_by_the_kernel(tried, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    program, told = ESCAPES[tried]
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = {"port": server.getsockname()[1], "secret": str(secret)}
        found = running.ran(program.format(**names) if "{" in program else program)
    assert found.status != 0
    assert told in found.printed
    assert "secret\n" not in found.printed


def test_a_program_leaves_nothing_behind_and_finds_an_empty_folder():
    program = "import os; print(os.listdir(), os.getpid() < 3); open('mine', 'w').write('a')"
    for _ in range(2):
        found = running.ran(program)
        assert (found.status, found.printed) == (0, "['program.py'] True\n")


def test_the_processes_that_watch_over_a_program_cannot_be_killed_by_it():
    found = running.ran("import os, signal\nfor one in (os.getppid(), 0, -1, 1):\n    os.kill(one, signal.SIGTERM)")
    assert not found.is_late
    assert psutil.pid_exists(os.getpid())


def test_a_program_without_end_is_ended_with_all_that_it_started(monkeypatch):
    monkeypatch.setattr(running, "SECONDS", 1)
    mark = f"{time.time_ns()}"
    program = f"""
        import ctypes, os, signal, time
        ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # not to be told of its parent's end
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
        os.execve("/usr/bin/env", ["sleep-{mark}", "sleep", "1000"], {{"PATH": "/usr/bin:/bin"}})
    """
    found = running.ran(textwrap.dedent(program))
    assert found.is_late
    time.sleep(0.1)
    left = [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "1000"]]
    assert not [one for one in left if one.create_time() > time.time() - 5]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_who_is_not_root_gets_the_same():
    code = "from trainer.sandbox import running; print(running.ran('import os; print(os.listdir(chr(47)))').printed)"
    python = Path("/usr/bin/python3")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not python.exists() or os.path.realpath(python) != f"/usr/bin/python{version}":
        pytest.skip("no Python of this version that others may start")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for package in ("specs", "trainer"):
            (Path(folder) / package).symlink_to(REPO / package)
        try:
            done = subprocess.run(
                [str(python), "-B", "-c", code],
                cwd=folder,
                env={"HOME": folder},
                user=1234,
                group=1234,
                extra_groups=[],
                capture_output=True,
                text=True,
                check=True,
            )
        except (PermissionError, subprocess.CalledProcessError) as error:
            pytest.skip(f"the sources are not readable by others: {error}")
    assert "tmp" in done.stdout
    assert "home" not in done.stdout


def test_a_program_that_could_not_be_confined_has_not_run_and_its_own_status_never_says_so(monkeypatch):
    assert running.ran("import sys; print('ran'); sys.exit(125)").status == 125
    written = (
        "import os\nfor one in range(3, 90):\n    try:\n        os.write(one, b'no')\n    except OSError:\n        pass"
    )
    assert running.ran(f"{written}\nos.closerange(0, 90)").status == 0
    monkeypatch.setitem(running._LIMITS, "RLIMIT_OF_NOTHING", 1)
    with pytest.raises(RunError, match=r"lost its sandbox.*RLIMIT_OF_NOTHING"):
        running.ran("print('ran')")


def test_without_a_sandbox_nothing_is_run(monkeypatch):
    monkeypatch.setattr(running.sys, "platform", "darwin")
    running._way.cache_clear()
    try:
        with pytest.raises(RunError, match="--run-code: needs a sandbox, and this system gives none"):
            running.ran("print('bare')")
    finally:
        monkeypatch.undo()
        running._way.cache_clear()
