"""What stands in one process for an object, a class or a function of the other one, and asks that one for all it does.

Source:
    The names of operations: https://docs.python.org/3/reference/datamodel.html
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

_COMPUTES = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift")
_COMPARES = ("eq", "ne", "lt", "le", "gt", "ge", "contains")
_TURNS = ("int", "float", "abs", "neg", "pos", "invert")
DECIDES = (*_COMPARES, *_TURNS, *_COMPUTES, *(f"r{one}" for one in _COMPUTES))
"""Operations with which an object could say of itself that it is what a test expects."""
_HOLDS = ("len", "iter", "next", "getitem", "setitem", "delitem")
OPERATIONS = (*DECIDES, *_HOLDS, "str", "repr", "bool", "hash", "enter", "exit", "call")


class Asking(Protocol):
    """What a mirror asks."""

    believed: Sequence[str]

    def ask(self, verb: str, *values: Any) -> Any:
        """Have the other process do something, and return what it gives."""


class Mirror:
    """An object of the other process."""

    _of: "tuple[Asking, int]"

    def __getattr__(self, name: str) -> Any:
        peer, number = object.__getattribute__(self, "_of")
        return peer.ask("get", number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        peer, number = self._of
        peer.ask("set", number, name, value)


class MirrorClass(type):
    """A class of the other process: called, it makes an object there."""

    _of: "tuple[Asking, int]"

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        """Make an object there, and return what stands for it here."""
        peer, number = cls._of
        return peer.ask("call", number, [*arguments], named)

    def __getattr__(cls, name: str) -> Any:
        peer, number = type.__getattribute__(cls, "_of")
        return peer.ask("get", number, name)


def _operation(name: str) -> Callable[..., Any]:
    def asked(self: Mirror, *arguments: Any) -> Any:
        peer, number = object.__getattribute__(self, "_of")
        if name in DECIDES and name not in peer.believed:
            if name == "eq":
                return object.__eq__(self, *arguments)
            if name in ("ne", "lt", "le", "gt", "ge"):
                return NotImplemented
            raise TypeError(f"an object of the answer does {name} here, and none of the answer in the data does")
        return peer.ask("operate", number, f"__{name}__", [*arguments])

    return asked


for _name in OPERATIONS:
    setattr(Mirror, f"__{_name}__", _operation(_name))


def function(peer: Asking, number: int, name: str) -> Any:
    """Return what stands for a function of the other process."""

    def asked(*arguments: Any, **named: Any) -> Any:
        return peer.ask("call", number, [*arguments], named)

    asked.__name__ = asked.__qualname__ = name
    asked._number_there = number  # type: ignore[attr-defined]
    return asked


def iterator(peer: Asking, number: int) -> Iterator[Any]:
    """Yield what an iterator of the other process yields."""
    while True:
        try:
            value = peer.ask("operate", number, "__next__", [])
        except StopIteration:
            return
        yield value
