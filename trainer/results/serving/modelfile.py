"""Ollama's Modelfile of a run: the GGUF file, the template, the tokens to stop at, and the system message.

Ollama of this autumn takes GGUF models alone: since 0.34.1 it refuses adapters, turns no safetensors of these
architectures into a model, and quantizes nothing.

Sources:
    ollama 0.34, server/create.go: ``errAdaptersUnsupported``, ``validateCreateOptions``, ``createModel``; its
    docs/import.mdx and docs/modelfile.mdx; the change is https://github.com/ollama/ollama/pull/14969.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.results.serving import go_template
from trainer.results.serving.spoken import Spoken

FILE = "Modelfile"

_OWN_RENDERER = frozenset({"gemma4", "laguna", "nemotron_h", "nemotron_h_moe", "nemotron_h_omni"})
"""Architectures of GGUF files that Ollama renders by its own code, whatever the template: ``createModel``."""

_QUOTES = '"""'


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelfile:
    """The text of a Modelfile, and what it cannot say."""

    text: str
    notes: tuple[str, ...] = ()


def modelfile(file: str, spoken: Spoken, *, architecture: str, system: str = "") -> Modelfile:
    """Return the Modelfile of a GGUF file in the same folder.

    Args:
        file: The name of the GGUF file.
        spoken: How the model is spoken to.
        architecture: ``general.architecture`` of the file.
        system: The system message that the model has always read; empty without.
    """
    found = go_template.parts(spoken.asked)
    lines = [f"FROM ./{file}"]
    if found is not None:
        lines.append(f"TEMPLATE {_QUOTES}{found.without(spoken.begins).in_go()}{_QUOTES}")
    lines += [f"PARAMETER stop {_quoted(token)}" for token in spoken.stops()]
    notes = list(_notes(spoken, found, architecture))
    if system and (_QUOTES in system or not all(sign.isprintable() or sign.isspace() for sign in system)):
        notes.append("The system message of the data cannot stand in a Modelfile: say it in each conversation.")
    elif system:
        lines.append(f"SYSTEM {_QUOTES}{system}{_QUOTES}")
    return Modelfile(text="\n".join([*lines, ""]), notes=tuple(notes))


def _notes(spoken: Spoken, found: go_template.Parts | None, architecture: str) -> Sequence[str]:
    if architecture in _OWN_RENDERER:
        return [f"Ollama renders {architecture} by its own code and reads neither this template nor the run's."]
    if found is None:
        return [
            "The run's chat template cannot be written as Ollama's: the one in the GGUF file is the run's, and Ollama "
            "takes its own for it where it knows it, and none otherwise. llama-server reads the run's."
        ]
    notes = []
    if not found.takes_system:
        notes.append("The run's chat template has no place for a system message, so Ollama leaves one out.")
    if "strftime_now" in spoken.jinja:
        notes.append("The run's chat template writes the date; the template here keeps the date of this export.")
    if "tools" in spoken.jinja:
        notes.append("The template here says messages alone; calls of tools need llama-server or vLLM.")
    if go_template.cuts_blanks(spoken.asked, found):
        notes.append("The run's chat template cuts blanks at the ends of messages; Ollama's cannot.")
    return notes


def _quoted(token: str) -> str:
    """Return a word as a parameter's value; Ollama takes quotation marks off and reads no escapes."""
    return f'"{token}"' if '"' not in token else token
