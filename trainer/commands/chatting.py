"""A conversation with a run's model, line by line; who answers can be changed between two lines."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from specs import LorafitError, RunError
from trainer.data.forms.messages import Turn
from trainer.results.chat import BASE, ROUTER, TUNED, Conversation, Question
from trainer.results.companions import companions, routed
from trainer.results.quantizing import WAYS, kept
from trainer.runs.contract import Run
from trainer.runs.store import Store

Command = Callable[[Store, argparse.Namespace], int]

_SWITCH = "/use"
"""How a line begins that says who answers from now on."""


def commands() -> Iterator[tuple[str, Command, str, dict[str, dict[str, Any]]]]:
    """Yield the command with what it does, in words and in code, and its options."""
    options: dict[str, dict[str, Any]] = {
        "id": {"metavar": "ID"},
        "--base": {"action": "store_true", "help": f"the same as --voice {BASE}"},
        "--voice": {
            "metavar": "NAME",
            "help": f"who answers: {TUNED}, {BASE}, {ROUTER}, another run of the same base model by its id, or the "
            f"model as it was quantized ({', '.join(WAYS)})",
        },
    }
    about = f"chat with a run's model, one question per line; a line such as {_SWITCH} {BASE} changes who answers"
    yield "chat", _chat, about, options


def _chat(store: Store, given: argparse.Namespace) -> int:
    run = store.run(given.id)
    if given.base and given.voice not in {None, BASE}:
        raise RunError("--voice", f"names another one than --base, got {given.voice}", None, "Leave one of them out")
    voice = _required(store, run, BASE if given.base else given.voice or TUNED)
    turns: list[Turn] = []
    with Conversation(store, run) as conversation:
        if sys.stdin is not None and sys.stdin.isatty():
            print(f"{_SWITCH} NAME changes who answers: {', '.join(_voices(store, run))}", file=sys.stderr)
        for line in map(str.strip, sys.stdin or ()):
            if line.split(" ")[0] == _SWITCH:
                voice = _switched(store, run, line, voice)
                continue
            turns.append(Turn(role="user", content=line))
            said = ""
            for piece in conversation.answer(Question(turns=tuple(turns), voice=voice)):
                said += piece
                print(piece, end="", flush=True)
            print(flush=True)
            turns.append(Turn(role="assistant", content=said))
    return 0


def _switched(store: Store, run: Run, line: str, voice: str) -> str:
    """Return who answers after such a line; a name that there is not is told, and changes nothing."""
    try:
        voice = _required(store, run, line.removeprefix(_SWITCH).strip())
    except LorafitError as error:
        print(error, file=sys.stderr)
    else:
        print(f"{_voices(store, run)[voice]} answers.", file=sys.stderr)
    return voice


def _required(store: Store, run: Run, voice: str) -> str:
    """Return a voice.

    Raises:
        RunError: If this run's conversation has none of the name.
    """
    voices = _voices(store, run)
    if voice not in voices:
        raise RunError("--voice", f"must be one of {', '.join(voices)}", voice)
    return voice


def _voices(store: Store, run: Run) -> Mapping[str, str]:
    """Return who can answer, by name, and what each is called."""
    others = {one.id: f"The adapter of run {one.id}" for one in companions(store, run)}
    router = {ROUTER: "The router"} if routed(store, run) else {}
    quantized = {way: f"The model in {WAYS[way].label}" for way in kept(store, run)}
    return {TUNED: "The tuned model", BASE: "The base model", **others, **router, **quantized}
