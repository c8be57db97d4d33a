"""What of llama.cpp is on this machine: its converter, what quantizes, and what loads a file back.

The converter is a Python program that llama.cpp ships with its sources. ``make gguf`` takes it from those of
llama-cpp-python into a folder of its own, with what it imports, so that nothing of it enters LoRAFit's environment.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from specs import RunError, paths
from specs.paths import REPO

CONVERTER = "convert_hf_to_gguf.py"
_LIBRARIES = "python"
"""Folder of the packages that the converter imports, and of xllamacpp."""


def converter() -> Path:
    """Return the program that writes GGUF files.

    Raises:
        RunError: If it is not here.
    """
    found = paths.llama_cpp() / CONVERTER
    if not found.is_file():
        way_out = "Fetch it with make gguf, or set LORAFIT_LLAMA_CPP to a folder of llama.cpp"
        raise RunError("GGUF", "needs llama.cpp's converter, which is not here", None, way_out)
    return found


def loads_back() -> bool:
    """Return whether llama.cpp itself can load a file here."""
    return (paths.llama_cpp() / _LIBRARIES / "xllamacpp").is_dir() or bool(importlib.util.find_spec("xllamacpp"))


def quantizer() -> list[str]:
    """Return the command that quantizes: it takes a file, another one to write, and a type.

    Raises:
        RunError: If neither llama.cpp's own program nor llama-cpp-python is here.
    """
    if program := shutil.which("llama-quantize"):
        return [program]
    if importlib.util.find_spec("llama_cpp"):
        return [sys.executable, "-m", "trainer.results.serving.quantizing"]
    way_out = f"Install llama.cpp, or with a C++ compiler: {Path(sys.executable).name} -m pip install llama-cpp-python"
    raise RunError("--type", "must be F16, BF16 or Q8_0 without llama-quantize", "Q4_K_M", way_out)


def environment() -> dict[str, str]:
    """Return the environment of a program of llama.cpp: nothing is fetched, and no GPU is used."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    libraries = os.pathsep.join(filter(None, (str(REPO), str(paths.llama_cpp() / _LIBRARIES), *given)))
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**os.environ, **quiet, "PYTHONPATH": libraries, "CUDA_VISIBLE_DEVICES": ""}


def ended(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program of llama.cpp to its end, and return its exit status and what it printed."""
    return subprocess.run(
        command,
        cwd=REPO,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
