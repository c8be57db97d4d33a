"""Makes the GGUF file of a model's folder with llama.cpp's own converter, and reads it back.

No line here knows an architecture: what the converter does not know is refused in a sentence.

Source:
    llama.cpp, convert_hf_to_gguf.py and conversion/; the format is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import importlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from specs import RunError, gib
from trainer.results.serving import tools
from trainer.results.serving.spoken import Spoken

DIRECT = {"F16": "f16", "BF16": "bf16", "Q8_0": "q8_0"}
"""Types that the converter writes, by its own name for each; others are quantized from F16."""
TYPES = (*DIRECT, "Q4_K_M")
"""Types of GGUF files: 16 bits a weight, about 8.5, about 4.8."""

_FEWEST_SCORES = 3
"""The converter gives every token of a vocabulary without ``tokenizer.model`` the same score: ``get_token_score``."""
_WEIGHTS = (".safetensors", ".gguf", ".bin")
_WAY_OUT = "Merge it and serve the folder with vLLM or transformers: python -m trainer merge ID FOLDER"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A GGUF file as it was read back."""

    path: Path
    architecture: str
    """``general.architecture``."""
    tensors: int
    num_bytes: int


def require_tools(file_type: str) -> None:
    """Refuse a file that cannot be made here, before anything is merged.

    Raises:
        RunError: If the type is none, or what makes it is missing.
    """
    if file_type not in TYPES:
        raise RunError("--type", f"must be one of {', '.join(TYPES)}", file_type)
    tools.converter()
    if file_type not in DIRECT:
        tools.quantizer()


def require_known(folder: Path) -> None:
    """Refuse a model whose architecture the converter does not list; without a configuration, it says so itself later.

    Raises:
        RunError: If none of its architectures is listed.
    """
    architectures = _json(folder / "config.json").get("architectures") or []
    listed = tools.converter().with_name("conversion") / "__init__.py"
    if architectures and listed.is_file():
        text = listed.read_text(encoding="utf-8")
        if not any(f'"{name}"' in text for name in architectures):
            raise RunError("GGUF", "needs an architecture that llama.cpp's converter knows", architectures[0], _WAY_OUT)


def left_out(folder: Path) -> tuple[str, ...]:
    """Return what of a model is not in its file: towers for pictures and sound, which llama.cpp keeps apart."""
    towers = [name for name in ("vision_config", "audio_config") if _json(folder / "config.json").get(name)]
    return ("The file holds the model of text alone, and nothing that sees or hears.",) if towers else ()


def made(source: Path, spoken: Spoken, target: Path, file_type: str, *, scratch: Path) -> ModelFile:
    """Write the GGUF file of a model's folder, and read its head back.

    Args:
        source: Weights in safetensors, configuration and tokenizer.
        spoken: How the model is spoken to.
        target: The file to write.
        file_type: One of ``TYPES``.
        scratch: An empty folder on the same disk.

    Raises:
        RunError: If the converter or the quantizer refuses it, or what is read back is not what was to be written.
    """
    staged = scratch / "model"
    _stage(source, spoken, staged)
    weights = sum(path.stat().st_size for path in staged.glob("*.safetensors"))
    _require_space(scratch, weights)
    first = target if file_type in DIRECT else scratch / "f16.gguf"
    outtype = DIRECT.get(file_type, DIRECT["F16"])
    run_program([sys.executable, str(tools.converter()), str(staged), "--outfile", str(first), "--outtype", outtype])
    found = read_back(first, spoken)
    if first == target:
        return found
    run_program([*tools.quantizer(), str(first), str(target), file_type])
    return replace(found, path=target, num_bytes=target.stat().st_size)


def _stage(source: Path, spoken: Spoken, staged: Path) -> None:
    """Lay out what the converter reads: the weights as they are, the template as the run has it, and no code."""
    staged.mkdir()
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".py":
            place = _linked if path.suffix in _WEIGHTS else shutil.copyfile
            place(path, staged / path.name)
    for name in ("config.json", "tokenizer_config.json"):
        values = _json(staged / name)
        # The converter lets a tokenizer bring code of its own; a configuration that names none has none.
        for unread in ("auto_map", "chat_template"):
            values.pop(unread, None)
        if name == "tokenizer_config.json":
            # Where nothing is said, the file would not say it either, and llama.cpp decides by the kind of vocabulary.
            values.setdefault("add_bos_token", spoken.puts_bos)
        (staged / name).write_text(json.dumps(values), encoding="utf-8")
    (staged / "chat_template.jinja").write_text(spoken.jinja, encoding="utf-8")


def _linked(path: Path, copy: Path) -> None:
    try:
        os.link(path, copy)
    except OSError:
        shutil.copyfile(path, copy)


def _require_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise RunError("disk", f"needs {gib(num_bytes)} for the GGUF file", f"{gib(free)} free", "Free some space")


def run_program(command: Sequence[str]) -> None:
    """Run a program of llama.cpp to its end.

    Raises:
        RunError: With what it refused, if it did.
    """
    done = tools.ended(command)
    if done.returncode:
        raise _refusal(done.stderr)


def _refusal(said: str) -> RunError:
    """Return what llama.cpp refused, in a sentence of ours where it is known."""
    if unknown := re.search(r"Model (\w+) is not supported", said):
        return RunError("GGUF", "needs an architecture that llama.cpp's converter knows", unknown[1], _WAY_OUT)
    if "pre-tokenizer was not recognized" in said:
        rule = "needs a tokenizer that llama.cpp knows, and it does not know how this one splits words"
        return RunError("GGUF", rule, None, _WAY_OUT)
    last = (said.strip().splitlines() or ["it gave no reason"])[-1]
    return RunError("GGUF", f"llama.cpp's converter refuses this model: {last}", None, _WAY_OUT)


def read_back(path: Path, spoken: Spoken) -> ModelFile:
    """Return the head of a file, and note in it whether a text begins with BOS as the run's do.

    Raises:
        RunError: If the file has another template, or no order in which to join letters to words.
    """
    reader = importlib.import_module("gguf").GGUFReader(path, "r+")
    if _value(reader, "tokenizer.chat_template") != spoken.jinja:
        raise RunError("GGUF", "holds another chat template than the run's", None, _WAY_OUT)
    scores = _value(reader, "tokenizer.ggml.scores")
    if _value(reader, "tokenizer.ggml.model") == "llama" and len(set(scores or ())) < _FEWEST_SCORES:
        rule = "needs the model's tokenizer.model, without which llama.cpp splits words otherwise"
        raise RunError("GGUF", rule, None, "Put it into the base model's folder, from where the model was published")
    if (adds := reader.get_field("tokenizer.ggml.add_bos_token")) is not None:
        adds.parts[adds.data[0]][0] = bool(spoken.begins)
    return ModelFile(
        path=path,
        architecture=str(_value(reader, "general.architecture")),
        tensors=len(reader.tensors),
        num_bytes=path.stat().st_size,
    )


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return field.contents() if field is not None else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
