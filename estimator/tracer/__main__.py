"""The tracer process: reads recipes from standard input and answers with progress, a tape or an error, line by line."""

import json
import os
import sys
from typing import Any, TextIO

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> None:
    """Answer recipes until standard input closes, as it does when the parent process ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # Output printed by libraries must not mix with the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _send(answers, {"progress": "loading the model code"})
    from estimator.tracer.server import answer  # noqa: PLC0415 - the first message is sent before imports that take seconds

    for line in sys.stdin:
        _send(answers, answer(line, lambda text: _send(answers, {"progress": text})))


def _send(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
