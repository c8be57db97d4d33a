"""Whether a GGUF file is the run's model: llama.cpp answers the run's first questions with it."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specs import RunError
from trainer.data.forms.messages import Turn
from trainer.results.serving import tools
from trainer.results.serving.spoken import Spoken
from trainer.runs.contract import Answer

MOST_QUESTIONS = 3
_MOST_TOKENS = 64
"""As many as a run's own answers have: ``trainer.results.answers.MAX_NEW_TOKENS``."""
_CUT = " ..."
"""What stands at the end of an answer that the run cut."""
_ANY = Answer(prompt="What is this about?", base="", tuned="")
"""Asked where a run has no questions, to see that it is read as the run would read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What llama.cpp made of a file."""

    sentence: str
    answers: tuple[tuple[str, str, str], ...] = ()
    """Question, answer of the run, answer of llama.cpp."""
    notes: tuple[str, ...] = ()


def checked(file: Path, spoken: Spoken, answers: Sequence[Answer], *, scratch: Path) -> Checked:
    """Return what llama.cpp answers, held against what the run answered.

    Args:
        file: The GGUF file.
        spoken: How the model is spoken to.
        answers: What the run answered.
        scratch: A folder for the questions.

    Raises:
        RunError: If llama.cpp cannot load the file.
    """
    if not tools.loads_back():
        return Checked(sentence="Read back, not tried: llama.cpp is not here to load it; make gguf fetches it.")
    asked = list(answers[:MOST_QUESTIONS]) or [_ANY]
    turns = [(Turn(role="user", content=one.prompt),) for one in asked]
    texts = [spoken.asked(turn) for turn in turns]
    questions = {
        "prompts": [text.removeprefix(spoken.begins) for text in texts],
        "messages": [[one.message() for one in turn] for turn in turns],
        "max_tokens": _MOST_TOKENS,
        "stop": list(spoken.stops()),
    }
    said = _answered(file, questions, scratch)
    counts = [len(spoken.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    read = [one["prompt_tokens"] for one in said]
    notes = []
    if read != counts:
        ours, theirs = next((ours, theirs) for ours, theirs in zip(counts, read, strict=True) if ours != theirs)
        notes.append(f"Answers may be worse: llama.cpp reads a question as {theirs} tokens, the run as {ours}.")
    elif [one["templated_tokens"] for one in said] != counts:
        notes.append("llama.cpp fills the template in the file otherwise than the run; it answered the run's own text.")
    both = tuple((one.prompt, one.tuned, found["answer"].strip()) for one, found in zip(asked, said, strict=True))
    return Checked(sentence=_sentence(answers, both), answers=both if answers else (), notes=tuple(notes))


def _sentence(answers: Sequence[Answer], both: Sequence[tuple[str, str, str]]) -> str:
    if not answers:
        return "Loaded by llama.cpp; the run has no answers to compare."
    others = [(run, found) for _, run, found in both if not _is_same(run, found)]
    told = f"Loaded by llama.cpp: {len(both) - len(others)} of {len(both)} first answers are the run's, word for word"
    alike = " and ".join(str(_alike(run, found)) for run, found in others)
    return f"{told}; the others begin alike for {alike} words." if others else f"{told}."


def _alike(run: str, found: str) -> int:
    """Return with how many words in common two answers begin."""
    pairs = enumerate(zip(run.split(), found.split(), strict=False))
    return next((number for number, (one, other) in pairs if one != other), min(len(run.split()), len(found.split())))


def _is_same(run: str, found: str) -> bool:
    return found.startswith(run.removesuffix(_CUT)) if run.endswith(_CUT) else found == run


def _answered(file: Path, questions: dict[str, Any], scratch: Path) -> list[dict[str, Any]]:
    path = scratch / "questions.json"
    path.write_text(json.dumps(questions), encoding="utf-8")
    command = [sys.executable, "-m", "trainer.results.serving.loading_back", str(file), str(path)]
    done = tools.ended(command)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise RunError("GGUF", f"llama.cpp cannot load it: {last}", None, "Serve the merged folder with vLLM")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
