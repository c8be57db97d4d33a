"""Conversations with a run's model: starts their processes, sends questions, ends them. Loads no model itself."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, Literal, Self, cast

from specs import RunError
from specs.paths import REPO
from trainer.data.forms.messages import Turn
from trainer.failure import PassedOnError
from trainer.runs.contract import Run
from trainer.runs.export import result_folder
from trainer.runs.launcher import worker_environment
from trainer.runs.store import Store

IDLE_SECONDS = 600.0
"""How long a conversation may be idle before it frees its memory."""
MAX_NEW_TOKENS = 256
LOG = "chat.log"
BASE, TUNED = "base", "tuned"
"""Which model answers: the base model or the tuned one."""
ROUTER = "router"
"""The tuned model and its companions at once: for each token, PEFT weighs the adapters that fit it best."""

Line = Literal["text", "end", "refusal", "over"]
"""Kinds of lines that the process of a conversation writes."""

_END_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question: the whole conversation so far, and how to answer it."""

    turns: tuple[Turn, ...]
    voice: str = TUNED
    """``BASE``, ``TUNED``, ``ROUTER``, a way of ``quantizing.WAYS``, or the id of another run whose adapter answers:
    one of ``companions``."""
    max_new_tokens: int = MAX_NEW_TOKENS
    temperature: float = 0.0
    """0 always picks the most likely token, so that voices can be compared."""


class Conversation:
    """One process that holds a run's model and answers one question at a time."""

    def __init__(self, store: Store, run: Run, *, idle_seconds: float = IDLE_SECONDS) -> None:
        """Start the process.

        Raises:
            RunError: If the run has saved no result, or a run is using its device.
        """
        refuse_while_in_use(store, run)
        result_folder(store, run)
        self.run_id = run.id
        self.speed: float | None = None
        """Tokens per second of the last answer."""
        self._lock = threading.Lock()
        with (store.run_folder(run.id) / LOG).open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainer.results.chat_process", str(store.folder), run.id, str(idle_seconds)],
                cwd=REPO,
                env=worker_environment(run, os.environ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                bufsize=1,
                start_new_session=True,
            )
        self._input, self._output = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        threading.Thread(target=self._process.wait, daemon=True).start()

    @property
    def is_open(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    @property
    def process_id(self) -> int:
        """The id of the process."""
        return self._process.pid

    def answer(self, question: Question) -> Iterator[str]:
        """Yield the answer piece by piece; closing the iterator stops the answer.

        Raises:
            PassedOnError: If the question is refused, or the process closed itself; its sentence says why.
            RunError: If the process ended without giving a reason.
        """
        with self._lock:
            self._write(json.dumps(asdict(question)))
            ended = False
            try:
                for line in self._lines():
                    ended = line["kind"] != "text"
                    if ended:
                        self._note_end(line)
                        return
                    yield line["text"]
                ended = True
                raise RunError("conversation", "has ended", None, f"Ask again to start a new one; its log is {LOG}")
            finally:
                if not ended:
                    self._drain()

    def close(self) -> None:
        """End the process; its memory is free when this returns."""
        with suppress(BrokenPipeError):
            self._input.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()

    def _write(self, line: str) -> None:
        try:
            print(line, file=self._process.stdin, flush=True)
        except (BrokenPipeError, ValueError):
            return  # the last line that it wrote gives the reason

    def _lines(self) -> Iterator[dict[str, str]]:
        yield from (json.loads(line) for line in self._output)

    def _note_end(self, line: dict[str, str]) -> None:
        if line["kind"] != "end":
            raise PassedOnError(line["text"])
        seconds = float(line["seconds"])
        self.speed = float(line["tokens"]) / seconds if seconds else None

    def _drain(self) -> None:
        self._write(json.dumps({"enough": True}))
        next((line for line in self._lines() if line["kind"] != "text"), None)


def refuse_while_in_use(store: Store, run: Run, subject: str = "conversation") -> None:
    """Refuse to load a model on a device that a run is using.

    Raises:
        RunError: If a run is using the device.
    """
    holder = store.holder(run.place.here)
    if holder is not None:
        rule = f"needs the device {run.place.here}, which run {holder.id} is using"
        raise RunError(subject, rule, str(holder.state), "Stop that run or wait until it ends")
