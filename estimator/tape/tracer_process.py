"""The client of the tracer process, which is started when first needed and restarted if it dies.

This module does not import torch; only the process does.
"""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from estimator.tape.recipe import Recipe
from specs import LorafitError, PlanError, SpecError, TraceError
from specs.paths import REPO

Progress = Callable[[str], None]

_TIMEOUT_SECONDS = 120.0
_KINDS: dict[str, type[LorafitError]] = {"SpecError": SpecError, "PlanError": PlanError}


class TracerProcess:
    """The tracer: one process, one request at a time, started on demand."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the process, or None if none is running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def ask(self, wanted: Recipe, progress: Progress) -> str:
        """Return the tape of a recipe as JSON text.

        Raises:
            LorafitError: If the tracer answers with an error, or dies twice.
        """
        with self._lock:
            for _ in range(2):
                answer = self._answer(wanted, progress)
                if answer is not None:
                    break
                self._end()
            else:
                raise TraceError("tracer", "process died before it answered", None, "Free some memory and try again")
        if "error" in answer:
            raise _as_error(answer)
        return str(answer["tape"])

    def stop(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _answer(self, wanted: Recipe, progress: Progress) -> dict[str, Any] | None:
        """Return the answer to one request, or None if the process died while handling it."""
        process = self._ensure_running()
        if process.stdin is None or process.stdout is None:
            return None
        timer = threading.Timer(_TIMEOUT_SECONDS, process.kill)
        timer.start()
        try:
            process.stdin.write(wanted.to_json() + "\n")
            process.stdin.flush()
            for line in process.stdout:
                message: dict[str, Any] = json.loads(line)
                if "progress" in message:
                    progress(message["progress"])
                elif "ready" not in message:
                    return message
        except (BrokenPipeError, ValueError, OSError):
            return None
        finally:
            timer.cancel()
        return None

    def _ensure_running(self) -> "subprocess.Popen[str]":
        if self._process is None or self._process.poll() is not None:
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


def _as_error(answer: dict[str, Any]) -> LorafitError:
    """Return the tracer's error with its original message."""
    error = _KINDS.get(str(answer.get("kind")), TraceError)(str(answer.get("subject", "trace")), "failed")
    error.args = (str(answer["error"]),)
    return error
