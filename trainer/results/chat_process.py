"""The process that holds a run's model during a conversation.

``python -m trainer.results.chat_process RUNS_FOLDER RUN_ID IDLE_SECONDS``. It reads requests as lines of JSON and
answers in lines of JSON: ``text`` for each piece of an answer, then ``end``; ``refusal`` with a sentence for what
cannot be answered; ``over`` with the reason when it closes itself. It exits when its input ends (as when the server
dies), when it has been idle for too long, and when a run takes its device.
"""

import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, TextStreamer

from specs import TASK_TYPES, LorafitError, RunError
from trainer.data.forms.messages import Turn
from trainer.failure import kind_and_sentence
from trainer.results.answers import end_tokens, generated, is_whole, prompt_tokens
from trainer.results.chat import BASE, ROUTER, TUNED, Line, refuse_while_in_use
from trainer.results.found import found
from trainer.results.quantizing import WAYS
from trainer.results.voices import Voices
from trainer.runs.contract import Run
from trainer.runs.export import result_folder
from trainer.runs.output import guard_output
from trainer.runs.session import Session
from trainer.runs.store import Store

_WITHOUT_LIMIT = 4096
"""Tokens of a conversation with a model that says nothing of its longest text."""
_POLL_SECONDS = 1.0
"""How often the device is checked; a run that takes it needs longer than this to import its libraries."""


class _PieceStreamer(TextStreamer):
    """Passes on each piece of an answer as soon as its characters are final."""

    def __init__(self, tokenizer: Any, pipe: "_Pipe") -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._pipe = pipe

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002 - transformers' signature
        """Send a piece."""
        if text:
            self._pipe.send("text", text)


class _Pipe:
    """Both ends of the pipe: requests come in, lines go out; if either closes, the process ends."""

    def __init__(self, output: int) -> None:
        self.requests: queue.Queue[dict[str, Any]] = queue.Queue()
        self.enough = threading.Event()
        """Set when nobody wants the rest of the answer."""
        self._output = os.fdopen(output, "w", encoding="utf-8")
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, kind: Line, text: str = "", **figures: float) -> None:
        """Write one line."""
        with self._lock:
            try:
                self._output.write(json.dumps({"kind": kind, "text": text, **figures}) + "\n")
                self._output.flush()
            except BrokenPipeError:
                os._exit(0)

    def leave(self, reason: str) -> None:
        """Send the reason and exit at once, whatever is being computed."""
        self.send("over", reason)
        os._exit(0)

    def _listen(self) -> None:
        for line in sys.stdin:
            request = json.loads(line)
            if request.get("enough"):
                self.enough.set()
            else:
                self.requests.put(request)
        os._exit(0)


def converse(session: Session, pipe: _Pipe, idle_seconds: float) -> None:
    """Answer requests until none comes for too long."""
    voices = Voices(session)
    tokenizers: dict[str, Any] = {}
    answer = _answer if TASK_TYPES[session.plan.task_type].writes else _find
    asked_for = {"task_type": session.plan.task_type, "texts": session.run.details.get("texts", 1)}
    while True:
        try:
            request = pipe.requests.get(timeout=idle_seconds)
        except queue.Empty:
            pipe.leave(f"Unloaded after {idle_seconds / 60:.0f} idle minutes. Ask again to reload the model.")
        pipe.enough.clear()
        try:
            with voices.model(request["voice"]) as model:
                answer(model, _tokenizer(session, request["voice"], tokenizers), {**request, **asked_for}, pipe)
        except (LorafitError, RuntimeError, ValueError, TypeError, MemoryError, OSError) as error:
            pipe.send("refusal", kind_and_sentence(error)[1])


def _tokenizer(session: Session, voice: str, known: dict[str, Any]) -> Any:
    """Return the tokenizer of whoever answers, whose chat template may be its own."""
    run = session.run if voice in {BASE, TUNED, ROUTER, *WAYS} else session.store.run(voice)
    if run.id not in known:
        folder = result_folder(session.store, run)
        known[run.id] = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return known[run.id]


def _find(model: Any, tokenizer: Any, request: dict[str, Any], pipe: _Pipe) -> None:
    """Say what is found in the last text."""
    if request["voice"] != TUNED and TASK_TYPES[request["task_type"]].has_head:
        raise RunError("base model", "has no head: only the tuned model has learned one", None, "Ask that one")
    text = request["turns"][-1]["content"]
    pipe.send("text", found(request["task_type"], model, tokenizer, text, number_of_texts=request["texts"]))
    pipe.send("end", tokens=0, seconds=0.0)


def _answer(model: Any, tokenizer: Any, request: dict[str, Any], pipe: _Pipe) -> None:
    turns = [Turn(role=turn["role"], content=turn["content"]) for turn in request["turns"]]
    asked = prompt_tokens(model, tokenizer, turns).to(model.device)
    length, longest = asked["input_ids"].shape[1], _longest(model.config)
    if length >= longest:
        raise RunError("conversation", f"must be shorter than {longest:,} tokens", length, "Start a new one")
    begun = time.monotonic()
    said = generated(
        model,
        tokenizer,
        asked,
        until=pipe.enough,
        streamer=_PieceStreamer(tokenizer, pipe),
        max_new_tokens=request["max_new_tokens"],
        **({"do_sample": True, "temperature": request["temperature"]} if request["temperature"] > 0 else {}),
    )
    if not is_whole(said, end_tokens(model, tokenizer)):
        pipe.send("text", " ...")
    pipe.send("end", tokens=len(said), seconds=time.monotonic() - begun)


def _longest(config: Any) -> int:
    """Return the most tokens of a conversation; T5 has no table of positions that would limit them."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or _WITHOUT_LIMIT)


def _watch(store: Store, run: Run, pipe: _Pipe) -> None:
    """Free the device as soon as a run takes it."""
    while True:
        time.sleep(_POLL_SECONDS)
        holder = store.holder(run.place.here)
        if holder is not None:
            pipe.leave(f"Run {holder.id} has started on this device, so the model was unloaded.")


def main(arguments: list[str]) -> int:
    """Serve the conversation with one run's model; return the exit status."""
    # The pipe carries only our own lines: what libraries print goes to the log.
    pipe = _Pipe(os.dup(sys.stdout.fileno()))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    folder, run_id, idle_seconds = arguments
    try:
        store = Store(Path(folder))
        run = store.run(run_id)
        refuse_while_in_use(store, run)
        threading.Thread(target=_watch, args=(store, run, pipe), daemon=True).start()
        converse(Session(run, store, pipe.enough), pipe, float(idle_seconds))
    except LorafitError as error:
        pipe.leave(str(error))
    return 0


if __name__ == "__main__":
    guard_output()
    sys.exit(main(sys.argv[1:]))
