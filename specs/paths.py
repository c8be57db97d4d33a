"""The folders of LoRAFit: the only place that knows environment variables and default paths."""

import os
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
"""The folder of the repository."""


def assets() -> Path:
    """Return the folder of the data files that come with LoRAFit."""
    return REPO / "assets"


def runs() -> Path:
    """Return the folder of the run store: ``$LORAFIT_RUNS``, or ``runs`` in the repository."""
    return _folder("LORAFIT_RUNS", REPO / "runs")


def cache() -> Path:
    """Return the folder for what can be fetched or computed again: ``$LORAFIT_CACHE``, or ``~/.cache/lorafit``."""
    return _folder("LORAFIT_CACHE", Path.home() / ".cache" / "lorafit")


def measures_itself() -> bool:
    """Return whether this machine's own speed counts: not if ``$LORAFIT_CALIBRATE`` is ``off``."""
    return os.environ.get("LORAFIT_CALIBRATE", "").strip().lower() != "off"


def llama_cpp() -> Path:
    """Return the folder of llama.cpp's converter: ``$LORAFIT_LLAMA_CPP``, or where ``make gguf`` puts it."""
    return _folder("LORAFIT_LLAMA_CPP", Path(sys.prefix) / "share" / "lorafit" / "llama.cpp")


def demo_model() -> Path:
    """Return the folder of the demo model's weights and tokenizer."""
    return cache() / "models" / "SmolLM2-135M-Instruct"


def demo_data() -> Path:
    """Return the demo data set, chat ``messages`` as JSONL."""
    return assets() / "demo.jsonl"


def general_text() -> Path:
    """Return passages of plain English, written for LoRAFit and under its licence, with an empty line between them."""
    return assets() / "general.txt"


def demo_classes() -> Path:
    """Return the demo data set of texts with a class: made-up letters to a shop, each with what it is about."""
    return assets() / "demo_classes.jsonl"


def ssh() -> str:
    """Return the command of the OpenSSH client: ``$LORAFIT_SSH``, such as ``ssh -F FILE``, or ``ssh``."""
    return os.environ.get("LORAFIT_SSH", "").strip() or "ssh"


def _folder(variable: str, default: Path) -> Path:
    text = os.environ.get(variable, "").strip()
    # Unlike Path.resolve, realpath does not raise for a link that leads back to itself.
    return Path(os.path.realpath(Path(text).expanduser())) if text else default
