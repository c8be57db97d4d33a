"""Answers with llama.cpp itself: ``python -m trainer.results.serving.loading_back FILE QUESTIONS``.

QUESTIONS is a file of JSON: ``prompts`` as the run wrote them, the same as ``messages``, ``max_tokens`` and ``stop``.
Prints one line of JSON for each: the answer, and how many tokens llama.cpp read of the prompt and of the messages.
"""

import importlib
import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specs.doors.door import door

_CONTEXT = 4096
"""Tokens that are kept; a first question and its answer have fewer."""


@door
def main(arguments: Sequence[str]) -> int:
    """Load a file on the processor, and print what it answers; return the exit status."""
    file, questions = arguments
    wanted = json.loads(Path(questions).read_text(encoding="utf-8"))
    server = _server(file)
    options = {"max_tokens": wanted["max_tokens"], "temperature": 0, "stop": wanted["stop"]}
    for prompt, messages in zip(wanted["prompts"], wanted["messages"], strict=True):
        said = server.handle_completions({"prompt": prompt, **options})
        templated = server.handle_chat_completions({"messages": messages, **options, "max_tokens": 1})
        print(  # noqa: T201 - the process that asked reads it
            json.dumps(
                {
                    "answer": said["choices"][0]["text"],
                    "prompt_tokens": said["usage"]["prompt_tokens"],
                    "templated_tokens": templated["usage"]["prompt_tokens"],
                }
            )
        )
    return 0


def _server(file: str) -> Any:
    """Return llama.cpp's server with a file; it also listens on this machine, so nobody else knows its key."""
    library = importlib.import_module("xllamacpp")  # may be missing
    settings = library.CommonParams()
    settings.model.path, settings.n_ctx = file, _CONTEXT
    settings.n_parallel, settings.n_gpu_layers, settings.warmup = 1, 0, False
    settings.api_keys = [secrets.token_hex()]
    return library.Server(settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
