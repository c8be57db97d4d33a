"""One of two processes that hand each other values, and names for what is none, as lines of JSON.

What the other one says is taken for a value that it gives, and for nothing else.
"""

import builtins
import importlib
import json
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from trainer.sandbox import mirrors
from trainer.sandbox.mirrors import Mirror, MirrorClass

_MOST = 1 << 24
"""Characters of one message."""
_BY_VALUE: Mapping[str, Callable[[Any], list[Any]]] = {
    "builtins.range": lambda it: [it.start, it.stop, it.step],
    "builtins.complex": lambda it: [it.real, it.imag],
    "builtins.bytes": lambda it: [[*it]],
    "builtins.bytearray": lambda it: [[*it]],
    "decimal.Decimal": lambda it: [str(it)],
    "fractions.Fraction": lambda it: [it.numerator, it.denominator],
    "collections.deque": lambda it: [[*it], it.maxlen],
    "collections.OrderedDict": lambda it: [[*it.items()]],
    "collections.Counter": lambda it: [dict(it)],
    "datetime.date": lambda it: [it.year, it.month, it.day],
    "datetime.time": lambda it: [it.hour, it.minute, it.second, it.microsecond],
    "datetime.datetime": lambda it: [it.year, it.month, it.day, it.hour, it.minute, it.second, it.microsecond],
    "datetime.timedelta": lambda it: [it.days, it.seconds, it.microseconds],
}
"""Types of the standard library that are handed over as values, and what they are made of again."""
_HOLDS: Mapping[str, Any] = {
    "list": list,
    "tuple": tuple,
    "set": (set, type({}.keys()), type({}.items())),
    "frozenset": frozenset,
}
_MADE = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_VALUES: Any = type({}.values())
_NO_VALUE = object()


class GoneError(BaseException):
    """The other process has ended, or speaks what nobody understands; not to be caught by a test."""


class Peer:
    """One of the two processes, as it talks to the other one."""

    def __init__(self, channel: int, own: str, believed: Sequence[str] | None, *, is_answer: bool) -> None:
        """Note how to talk.

        Args:
            channel: The socket.
            own: The name of the module whose classes are handed over by name.
            believed: Operations in which objects of the answer are believed; None if it may hand over none.
            is_answer: Whether this is the answer, all of which the tests may ask for.
        """
        self._read, self._write = os.fdopen(channel, "rb"), os.fdopen(os.dup(channel), "wb")
        self._own, self._is_answer = own, is_answer
        self.believed, self._has_objects = believed or (), believed is not None
        self.is_gone, self.failed = False, ""
        self._given: list[Any] = []
        self._mirrors: dict[int, Any] = {}

    def ask(self, verb: str, *values: Any) -> Any:
        """Have the other process do something; return what it gives, and change what it changed of the arguments."""
        self._send({"do": verb, "with": [self._packed(one) for one in values]})
        while "do" in (told := self._heard()):
            self._do(told)
        return self._understood(lambda: self._taken(told, values))

    def serve(self) -> NoReturn:
        """Do what the other process asks for."""
        self._send({"gave": None})
        while True:
            self._do(self._heard())

    def greeting(self) -> None:
        """Wait until the other process has read its program; raise what it met in doing so."""
        told = self._heard()
        self._understood(lambda: self._taken(told, ()))

    def refuse(self, error: Exception) -> None:
        """Say that this process could not read its program."""
        self._send({"raised": self._raised(error)})

    def _send(self, message: Any) -> None:
        line = json.dumps(message).encode() + b"\n"
        try:
            self._write.write(line)
            self._write.flush()
        except OSError as error:
            self.is_gone = True
            raise GoneError(str(error)) from None

    def _heard(self) -> Any:
        try:
            line = self._read.readline(_MOST)
        except OSError:
            line = b""
        return self._understood(lambda: dict(json.loads(line)))

    def _understood(self, read: Callable[[], Any]) -> Any:
        """Return what is read of a message; what the other process raised goes on."""
        try:
            return read()
        except _RaisedError as found:
            error = found.error
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as told:
            self.is_gone = True
            raise GoneError(str(told)) from None
        raise error

    def _taken(self, told: Mapping[str, Any], values: Sequence[Any]) -> Any:
        for old, new in zip(values, told.get("now", ()), strict=False):
            _restored(old, self._unpacked(new))
        if "raised" in told:
            raise _RaisedError(self._error(*told["raised"]))
        return self._unpacked(told["gave"])

    def _do(self, asked: Mapping[str, Any]) -> None:
        verb, values = self._understood(lambda: (asked["do"], [self._unpacked(one) for one in asked["with"]]))
        answer: dict[str, Any] = {}
        try:
            before = json.dumps([self._packed(one) for one in values])
            try:
                answer["gave"] = self._packed(getattr(self, f"_do_{verb}")(*values))
            finally:
                now = [self._packed(one) for one in values]
                if json.dumps(now) != before:
                    answer["now"] = now
        except Exception as error:  # noqa: BLE001 - whatever it is, it is handed over
            answer["raised"] = self._raised(error)
            if isinstance(error, AssertionError):  # of a function of the tests, which the answer might catch
                self.failed = f"AssertionError: {error}"
        self._send(answer)

    def _do_name(self, name: str) -> Any:
        return getattr(sys.modules[self._own], name) if self._is_answer else None

    def _do_call(self, number: int, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        return self._given[number](*arguments, **named)

    def _do_get(self, number: int, name: str) -> Any:
        return getattr(self._reached(number, name), name)

    def _do_set(self, number: int, name: str, value: Any) -> None:
        setattr(self._reached(number, name), name, value)

    def _do_operate(self, number: int, name: str, arguments: Sequence[Any]) -> Any:
        it = self._given[number]
        if name.strip("_") not in mirrors.OPERATIONS:
            raise AttributeError(name)
        return bool(it) if name == "__bool__" else getattr(it, name)(*arguments)

    def _reached(self, number: int, name: str) -> Any:
        """Return what was handed over, if its attributes are the other one's to read."""
        it = self._given[number]
        if not self._is_answer and (name.startswith("_") or type(it).__module__ != self._own):
            raise AttributeError(name)
        return it

    def _packed(self, it: Any) -> Any:
        """Return what stands for a thing in a message."""
        if isinstance(it, Mirror | MirrorClass):
            return {"yours": it._of[1]}
        kind = type(it)
        if it is None or kind in (bool, int, float, str):
            return it
        if (name := f"{kind.__module__}.{kind.__qualname__}") in _BY_VALUE:
            return {"made": name, "of": [self._packed(one) for one in _BY_VALUE[name](it)]}
        if isinstance(it, type):
            return {"builtin": it.__name__} if it.__module__ == "builtins" else self._named(it)
        return self._held(it)

    def _held(self, it: Any) -> Any:
        """Return what stands for a thing: its name if it is the program's own or can be called, or else its value."""
        if hasattr(it, "_number_there"):
            return {"yours": it._number_there}
        if type(it).__module__ == self._own and (self._has_objects or not self._is_answer):
            return self._named(it)
        if (value := self._value(it)) is not _NO_VALUE:
            return value
        if isinstance(it, _VALUES):
            return self._named(iter(it))
        if isinstance(it, types.ModuleType) or not (callable(it) or hasattr(it, "__next__")):
            raise TypeError(f"{type(it).__name__} is nothing that one process can hand to another")
        return self._named(it)

    def _value(self, it: Any) -> Any:
        """Return what stands for the value of a thing, whatever its class makes of it."""
        for plain in (str, int, float):
            if isinstance(it, plain):
                return plain(it)
        if isinstance(it, dict):
            return {"dict": [[self._packed(key), self._packed(value)] for key, value in it.items()]}
        for kind, plains in _HOLDS.items():
            if isinstance(it, plains):
                return {kind: [self._packed(one) for one in it]}
        return _NO_VALUE

    def _named(self, it: Any) -> Any:
        """Keep a thing, and return a name for it."""
        number = next((place for place, other in enumerate(self._given) if other is it), len(self._given))
        if number == len(self._given):
            self._given.append(it)
        name = getattr(it, "__name__", "")
        if isinstance(it, type):
            above = next(one.__name__ for one in it.__mro__ if one.__module__ == "builtins")
            bases = [self._packed(one) for one in it.__bases__ if one.__module__ == self._own]
            return {"mine": number, "kind": "class", "name": name, "above": above, "bases": bases}
        if type(it).__module__ == self._own:
            return {"mine": number, "kind": "object", "class": self._named(type(it))}
        return {"mine": number, "kind": "iterator" if hasattr(it, "__next__") else "function", "name": name}

    def _unpacked(self, told: Any) -> Any:
        """Return the thing that a part of a message stands for."""
        if not isinstance(told, dict):
            return told
        if "mine" in told:
            if told["mine"] not in self._mirrors:
                self._mirrors[told["mine"]] = self._mirrored(told)
            return self._mirrors[told["mine"]]
        if "made" in told:
            module, _, name = told["made"].rpartition(".")
            return self._made(module, name, [self._unpacked(one) for one in told["of"]])
        ((kind, inner),) = told.items()
        if kind == "yours":
            return self._given[inner]
        if kind == "builtin":
            found = getattr(builtins, inner)
            return found if isinstance(found, type) else self._no(told)
        if kind == "dict":
            return {self._unpacked(key): self._unpacked(value) for key, value in inner}
        return _MADE[kind](self._unpacked(one) for one in inner)

    def _made(self, module: str, name: str, arguments: Sequence[Any]) -> Any:
        if f"{module}.{name}" not in _BY_VALUE:
            self._no(name)
        return getattr(importlib.import_module(module), name)(*arguments)

    def _no(self, told: Any) -> NoReturn:
        raise ValueError(f"{str(told)[:60]} is not taken")

    def _mirrored(self, told: Mapping[str, Any]) -> Any:
        number, kind = int(told["mine"]), told["kind"]
        if kind in ("function", "iterator"):
            name = str(told["name"])
            return mirrors.function(self, number, name) if kind == "function" else mirrors.iterator(self, number)
        if kind == "class":
            above = getattr(builtins, str(told["above"]))
            if isinstance(above, type) and issubclass(above, Exception):
                bases = tuple(self._unpacked(one) for one in told["bases"])
                return type(str(told["name"]), bases or (above,), {"_of": (self, number)})
        if not (self._has_objects or self._is_answer):
            self._no("an object of its own")
        if kind == "class":
            bases = tuple(self._unpacked(one) for one in told["bases"])
            return MirrorClass(str(told["name"]), bases or (Mirror,), {"_of": (self, number)})
        mirror = object.__new__(self._unpacked(told["class"]))
        object.__setattr__(mirror, "_of", (self, number))
        return mirror

    def _raised(self, error: Exception) -> Sequence[Any]:
        own = self._named(type(error)) if type(error).__module__ == self._own else None
        above = next(one.__name__ for one in type(error).__mro__ if one.__module__ == "builtins")
        return [above, own, [one for one in error.args if type(one) in (bool, int, float, str)] or [str(error)]]

    def _error(self, above: str, own: Any, told: Sequence[Any]) -> Exception:
        kind = self._unpacked(own) if own else getattr(builtins, above)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            self._no(above)
        try:
            return kind(*told)
        except TypeError:  # such as UnicodeDecodeError, which is made of more than it says
            return Exception(f"{above}: {told[0]}")


class _RaisedError(Exception):
    """What the other process raised, on its way out of the reading of its message."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def _restored(old: Any, new: Any) -> Any:
    """Make of a thing what has become of its copy; return it, or the copy where it cannot change."""
    if type(old) is not type(new):
        return new
    if isinstance(old, list):
        old[:] = [_restored(*both) for both in zip(old, new, strict=True)] if len(old) == len(new) else new
    elif isinstance(old, dict):
        changed = {key: _restored(old[key], value) if key in old else value for key, value in new.items()}
        old.clear()
        old.update(changed)
    elif isinstance(old, set):
        old.clear()
        old.update(new)
    elif isinstance(old, bytearray) or type(old).__name__ == "deque":
        old.clear()
        old.extend(new)
    elif isinstance(old, tuple) and len(old) == len(new):
        return tuple(_restored(*both) for both in zip(old, new, strict=True))
    elif old != new:
        return new
    return old
