"""The client of the tracer process, which is started when first needed and restarted if it dies.

This module does not import torch; only the process does.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import psutil

from specs import LorafitError, PlanError, SpecError, TraceError
from specs.paths import REPO

Progress = Callable[[str], None]

_MOST_WORK_SECONDS = 120.0
"""Processor time of one answer, so that a busy machine ends no tracer that works."""
_LONGEST_REST_SECONDS = 120.0
"""Time in which a tracer must have worked at all."""
_LONGEST_END_SECONDS = 2.0
"""How long to wait for the status of a process that has closed its output."""
_SIGKILL = 9
_OVERWORKED = "its step takes more than two minutes of processor time to trace"
_STARVED = "got no processor time for two minutes"
_TRY_AGAIN = "Try again; if memory is short, free some first"
_KINDS: dict[str, type[LorafitError]] = {"SpecError": SpecError, "PlanError": PlanError}


class Question(Protocol):
    """What the tracer can be asked: a recipe, or a configuration of which the layers are wanted."""

    @property
    def config_json(self) -> str:
        """The configuration that is asked about."""

    @property
    def key(self) -> str:
        """A name for the answer's file."""

    def to_json(self) -> str:
        """Return the question as one line."""


class TracerProcess:
    """The tracer: one process, one request at a time, started on demand."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._unanswered: set[str] = set()
        self._stuck = ""
        """Why the last process was ended by its watch; empty if it was not."""

    @property
    def pid(self) -> int | None:
        """The id of the process, or None if none is running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def ask(self, wanted: Question, progress: Progress) -> str:
        """Return the answer as JSON text: the tape of a recipe, or the layers of a model.

        Raises:
            LorafitError: If the tracer answers with an error, or dies twice.
        """
        with self._lock:
            for _ in range(2):
                answer = self._answer(wanted, progress)
                if answer is not None:
                    break
                status = self._status()
                self._end()
                if self._stuck == _OVERWORKED:
                    raise TraceError(_name(wanted), _OVERWORKED, None, "Choose another model")
            else:
                raise TraceError("tracer", self._stuck or f"died before it answered{_reason(status)}", None, _TRY_AGAIN)
        if "error" in answer:
            raise _as_error(answer)
        return str(answer["tape"])

    def stop(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _answer(self, wanted: Question, progress: Progress) -> dict[str, Any] | None:
        """Return the answer to one request, or None if the process died while handling it.

        ``progress`` may raise, as it does on a page that is left: the answer then stays to be read, and is taken by
        the next request for that recipe, or passed over.
        """
        process = self._ensure_running()
        if process.stdin is None or process.stdout is None:
            return None
        self._stuck = ""
        with contextlib.suppress(BrokenPipeError, ValueError, OSError), _ended_if_stuck(process, self._note):
            if wanted.key not in self._unanswered:
                self._unanswered.add(wanted.key)
                process.stdin.write(f"{wanted.key} {wanted.to_json()}\n")
                process.stdin.flush()
            for line in process.stdout:
                message: dict[str, Any] = json.loads(line)
                about = message.get("recipe", wanted.key)
                if "progress" in message:
                    progress(message["progress"])
                else:
                    self._unanswered.discard(about)
                    if about == wanted.key:
                        return message
        return None

    def _ensure_running(self) -> "subprocess.Popen[str]":
        if self._process is None or self._process.poll() is not None:
            self._unanswered.clear()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "estimator.tracer"],
                cwd=REPO,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
        return self._process

    def _note(self, why: str) -> None:
        self._stuck = why

    def _status(self) -> int | None:
        """Return the status that the process ended with by itself, or None."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=_LONGEST_END_SECONDS) if self._process is not None else None
        return None

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()


@contextlib.contextmanager
def _ended_if_stuck(process: "subprocess.Popen[str]", note: Callable[[str], None]) -> Iterator[None]:
    """Kill the process if it works for too long, or not at all."""
    answered = threading.Event()
    watch = threading.Thread(target=_watch, args=(process, answered, note), daemon=True)
    watch.start()
    try:
        yield
    finally:
        answered.set()


def _watch(process: "subprocess.Popen[str]", answered: threading.Event, note: Callable[[str], None]) -> None:
    with contextlib.suppress(psutil.Error):
        began = seen = _work_seconds(process.pid)
        worked_at = time.monotonic()
        while not answered.wait(1):
            now = _work_seconds(process.pid)
            if now > seen:
                seen, worked_at = now, time.monotonic()
            why = _reason_to_end(seen - began, time.monotonic() - worked_at)
            if why:
                note(why)
                process.kill()
                return


def _reason_to_end(worked: float, rested: float) -> str:
    """Return why a tracer is ended; empty while it may go on."""
    if worked > _MOST_WORK_SECONDS:
        return _OVERWORKED
    return _STARVED if rested > _LONGEST_REST_SECONDS else ""


def _name(wanted: Question) -> str:
    return str(json.loads(wanted.config_json).get("model_type", "model"))


def _reason(status: int | None) -> str:
    """Return what a status tells: the kernel kills the process with most memory when there is none left."""
    return " (killed, as the system does when memory is short)" if status == -_SIGKILL else ""


def _work_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _as_error(answer: dict[str, Any]) -> LorafitError:
    """Return the tracer's error with its original message."""
    error = _KINDS.get(str(answer.get("kind")), TraceError)(str(answer.get("subject", "trace")), "failed")
    error.args = (str(answer["error"]),)
    return error
