"""Writes what serves a run's model elsewhere into one folder: for Ollama, llama.cpp or vLLM."""

import json
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from specs import METHODS, PlanError, RunError, gib
from specs.markup import in_markdown
from trainer import files
from trainer.data.files.reading import is_hub_id
from trainer.results import tasks
from trainer.results.serving import checking, model_file, modelfile, vllm
from trainer.results.serving.spoken import Spoken, system_message
from trainer.runs import cards, export
from trainer.runs.contract import Run
from trainer.runs.store import Store

TARGETS = {
    "ollama": "the model as GGUF with a Modelfile",
    "gguf": "the model as GGUF, for llama.cpp and what is built on it",
    "vllm": "the adapter, and the command that serves it",
}
"""What a run's model can be exported to, and what is written."""

_CARD = "README.md"
_ELSEWHERE = "BASE_MODEL"
"""The base model in a card, where it lies in a folder of this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A folder that was written, and how to use it."""

    folder: Path
    commands: tuple[str, ...]
    """To be run in that folder."""
    said: tuple[str, ...] = ()
    """What was found, and what is different there than in the run."""


def served(store: Store, run: Run, to: str, folder: Path, file_type: str = "F16") -> Served:
    """Write a run's model for another program into a new folder.

    Args:
        store: The run store.
        run: The run.
        to: One of ``TARGETS``.
        folder: A new or empty folder.
        file_type: The type of a GGUF file, of ``model_file.TYPES``.

    Raises:
        PlanError: If the run trained for something else than to write text.
        RunError: If it has saved no result, or what is asked for cannot be made of it or here.
        PassedOnError: If it cannot be merged.
    """
    result = export.result_folder(store, run)
    if to not in TARGETS:
        raise RunError("--to", f"must be one of {', '.join(TARGETS)}", to)
    if run.plan.task_type != "CAUSAL_LM":
        raise PlanError("task_type", f"must be CAUSAL_LM to be served by {to}", run.plan.task_type, "Merge it instead")
    files.require_new(folder)
    if to == "vllm":
        return _for_vllm(store, run, result, folder)
    model_file.require_tools(file_type)
    model_file.require_known(Path(run.model) if METHODS[run.plan.method].trains_adapter else result)
    with files.scratch_folder(folder.parent) as scratch, _whole(store, run, result, scratch) as source:
        return _as_gguf(store, run, to, folder, _Source(source, file_type, scratch))


def served_beside(store: Store, run: Run, to: str, file_type: str = "F16") -> Served:
    """Write a run's model for another program into the run's folder, in place of what was written there before.

    Raises:
        LorafitError: As ``served`` does.
    """
    name = export.EXPORTED.format("-".join((str(run.result_step), to, *([file_type] if to != "vllm" else []))))
    folder = store.run_folder(run.id) / name
    if folder.is_dir() and (folder / _CARD).is_file():
        shutil.rmtree(folder)
    return served(store, run, to, folder, file_type)


@dataclass(frozen=True, slots=True)
class _Source:
    """What a GGUF file is made of, and where."""

    folder: Path
    file_type: str
    scratch: Path


@contextmanager
def _whole(store: Store, run: Run, result: Path, scratch: Path) -> Iterator[Path]:
    """Yield the folder of the whole model: the result itself, one that was merged before, or one merged for this."""
    merged = store.run_folder(run.id) / export.MERGED.format(run.result_step)
    if not METHODS[run.plan.method].trains_adapter:
        yield result
    elif merged.is_dir():
        yield merged
    else:
        yield tasks.merge(store, run.id, scratch / "merged")


def _as_gguf(store: Store, run: Run, to: str, folder: Path, source: _Source) -> Served:
    spoken, name = Spoken(source.folder), f"model-{source.file_type}.gguf"
    with files.replaced(folder) as target:
        made = model_file.made(source.folder, spoken, target / name, source.file_type, scratch=source.scratch)
        found = checking.checked(made.path, spoken, store.answers(run.id), scratch=source.scratch)
        said = [
            f"{name}: {made.architecture}, {made.tensors} tensors, {gib(made.num_bytes)}.",
            found.sentence,
            *found.notes,
            *model_file.left_out(source.folder),
        ]
        commands = [f"llama-server --model {name} --jinja"]
        if to == "ollama":
            text = modelfile.modelfile(name, spoken, architecture=made.architecture, system=system_message(run.data))
            (target / modelfile.FILE).write_text(text.text, encoding="utf-8")
            said += text.notes
            commands = [f"ollama create {_name(run)} -f {modelfile.FILE}", f"ollama run {_name(run)}"]
        written = Served(folder=folder, commands=tuple(commands), said=tuple(said))
        _write_card(store, run, target, written, found.answers)
    return written


def _for_vllm(store: Store, run: Run, result: Path, folder: Path) -> Served:
    """Write the folder of an adapter or a whole model, with the run's template, and the command.

    Raises:
        RunError: If vLLM cannot serve this adapter.
    """
    if METHODS[run.plan.method].trains_adapter:
        rank = vllm.max_lora_rank(json.loads((result / vllm.CONFIG).read_text(encoding="utf-8")))
        command = vllm.adapter_command(_base(run), _name(run), rank=rank)
    else:
        command = vllm.model_command(_name(run))
    with files.replaced(folder) as target:
        for name, content in export.package(store, run).items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                shutil.copyfile(content, path)
        (target / vllm.TEMPLATE).write_text(Spoken(result).jinja, encoding="utf-8")
        written = Served(folder=folder, commands=(shlex.join(command),), said=vllm.SAID)
        _write_card(store, run, target, written, ())
    return written


def _base(run: Run) -> str:
    """Return the base model as vLLM finds it: by its name on the Hub, or in the folder that the run took it from."""
    name = run.plan.model_name_or_path
    return name if is_hub_id(name) and not Path(name).exists() else run.model


def _name(run: Run) -> str:
    """Return what the served model is called; Ollama takes small letters, digits and hyphens."""
    return f"lorafit-{run.id}".lower()


def _write_card(store: Store, run: Run, folder: Path, written: Served, answers: Sequence[tuple[str, str, str]]) -> None:
    """Write the model card with the numbers of training and evaluation, how to use the folder, and what differs."""
    merged = METHODS[run.plan.method].trains_adapter and not (folder / vllm.CONFIG).is_file()
    # A card leaves this machine, so it names no folder of it.
    commands = [
        one.replace(shlex.quote(run.model), _ELSEWHERE) if Path(run.model).is_dir() else one for one in written.commands
    ]
    card = cards.model_card(run, store.metrics(run.id), merged=merged)
    lines = [card, "## Use", "```sh", *commands, "```", ""]
    lines += [f"- {one}" for one in written.said]
    for question, ours, found in answers:
        told = [("Question", question), ("Run", ours), ("llama.cpp", found)]
        lines += ["", *(f"- {label}: {in_markdown(' '.join(words.split()))}" for label, words in told)]
    (folder / _CARD).write_text("\n".join([*lines, ""]), encoding="utf-8")
