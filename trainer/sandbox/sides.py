"""An answer and its tests, each the program of a process of its own: only that of the tests knows how they ended."""

import builtins
import json
import os
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from trainer.sandbox.mirrors import DECIDES
from trainer.sandbox.peer import GoneError, Peer


class _Names(dict[str, Any]):
    """The names of the tests: their own, and some of the answer's."""

    def __init__(self, peer: Peer, asked: Sequence[str]) -> None:
        super().__init__(__name__="tests", __builtins__=builtins)
        self._peer, self._asked = peer, asked

    def __missing__(self, name: str) -> Any:
        if name not in self._asked:
            raise KeyError(name)
        return self._peer.ask("name", name)


def _run(source: str, file: str, names: dict[str, Any]) -> None:
    exec(compile(source, file, "exec", dont_inherit=True), names)  # noqa: S102 - which is the purpose


def answer(channel: int, sources: Sequence[str], has_objects: bool) -> NoReturn:  # noqa: FBT001 - from a text
    """Be the answer: run it, then do what the tests ask for."""
    sys.set_int_max_str_digits(0)
    peer = Peer(channel, "answer", DECIDES if has_objects else None, is_answer=True)
    module = sys.modules["answer"] = types.ModuleType("answer")
    try:
        for source in sources:
            _run(source, "answer.py", module.__dict__)
    except Exception as error:  # noqa: BLE001 - told by the tests
        peer.refuse(error)
        sys.exit(1)
    peer.serve()


def tests(
    channel: int, result: int, sources: Sequence[str], names: Sequence[str], believed: Sequence[str] | None
) -> NoReturn:
    """Be the tests: wait for the answer, run them, and say how they ended.

    Args:
        channel: The socket to the answer.
        result: Where to say it.
        sources: What is run, part by part.
        names: Names that the answer may define for them.
        believed: Operations in which the answer's objects are believed; None if it may hand over none.
    """
    sys.set_int_max_str_digits(0)
    peer = Peer(channel, "tests", believed, is_answer=False)
    sys.modules["tests"] = types.ModuleType("tests")
    told: Mapping[str, Any]
    try:
        peer.greeting()
        own = _Names(peer, names)
        for source in sources:
            _run(source, "tests.py", own)
        told = {"gone": True} if peer.is_gone else {"error": peer.failed} if peer.failed else {"passed": True}
    except GoneError:
        told = {"gone": True}
    except BaseException as error:  # noqa: BLE001 - whatever it is, the tests did not come to their end
        told = {"error": f"{type(error).__name__}: {error}".removesuffix(": ")}
    os.write(result, json.dumps(told).encode())
    os._exit(0)
