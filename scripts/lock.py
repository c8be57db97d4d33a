"""Write the hashed lists in requirements/ from requirements*.txt; needs `pip install uv`.

The packages are split into lists, because one version of torch comes in builds with different requirements: base (every
machine), torch (the wheel of any build), cuda (only if that wheel requires it), mcp (the MCP server) and test.
"""

import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
FOLDER = REPO / "requirements"
CUDA_ONLY = re.compile(r"^(nvidia-(?!ml-py)|cuda-|triton)")
# PyTorch's own CPU build for Linux and Python 3.11: torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl.
TORCH_CPU_SHA256 = "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"


def entries(*sources: str) -> dict[str, str]:
    """Return each resolved requirement with its hashes, by name."""
    command = ["uv", "pip", "compile", "--universal", "--python-version", "3.11", "--generate-hashes", "--quiet"]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", *sources]
    text = subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True).stdout
    blocks = re.split(r"\n(?=[a-z])", text.strip())
    return {re.split(r"[=; ]", block, maxsplit=1)[0]: block for block in blocks}


def write(name: str, title: str, blocks: list[str]) -> None:
    """Write one list, with a first line that says what it is."""
    (FOLDER / name).write_text(f"# {title}; written by scripts/lock.py.\n" + "\n".join(blocks) + "\n")


def main() -> str | None:
    """Resolve all requirement files and write the lists; return an error message, or None."""
    app = entries("requirements.txt")
    with_mcp = entries("requirements.txt", "requirements-mcp.txt")
    tests = entries("requirements.txt", "requirements-mcp.txt", "requirements-test.txt")
    torch = app.pop("torch") + f" \\\n    --hash=sha256:{TORCH_CPU_SHA256}"
    cuda = {name: block for name, block in app.items() if CUDA_ONLY.match(name)}
    base = {name: block for name, block in app.items() if name not in cuda}
    mcp = {name: block for name, block in with_mcp.items() if name not in app and name != "torch"}
    extra = {name: block for name, block in tests.items() if name not in with_mcp}
    moved = [name for name, block in {**app, **mcp}.items() if tests.get(name) != block or with_mcp[name] != block]
    if moved:
        return f"The tests or the MCP server need different versions of {', '.join(moved)}: change a pin."
    write("base.txt", "What LoRAFit needs on every machine", list(base.values()))
    write("torch.txt", "PyTorch, any build of the one version", [torch])
    write("cuda.txt", "What PyTorch's CUDA build needs on Linux", list(cuda.values()))
    write("mcp.txt", "What the MCP server needs besides", list(mcp.values()))
    write("test.txt", "What the checks and tests need besides", list(extra.values()))
    return None


if __name__ == "__main__":
    sys.exit(main())
