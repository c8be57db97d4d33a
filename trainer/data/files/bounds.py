"""What one row may take at most, so that no file makes its reader take a gigabyte of memory."""

import re
from typing import BinaryIO

from specs import MIB
from trainer.data.row import UnreadableError

LONGEST = 32 * MIB
"""Characters of the longest line, field or paragraph that is read; a longer one is skipped."""

MOST_BYTES = 640 * MIB
"""What the Python values of one JSON text may take."""
_FEW = MIB
"""Characters of a JSON text whose values are never too many."""
_OBJECT, _LIST, _VALUE = 240, 96, 64
"""Bytes in CPython 3.11 on 64 bits (``sys.getsizeof``): of an object with one key, of a list that has grown, and of a
short text or number with the place that refers to it."""

_CHUNK = MIB
_DEEPEST = 100_000
"""How many more lists and objects may begin than end in one chunk."""
_BEGUN_CODE = re.compile(rb"u[0-9a-fA-F]{0,3}$")
_REST_OF_CHARACTER = re.compile(rb"[\x80-\xbf]{0,3}")


def is_too_much(text: str) -> bool:
    """Return whether the values of a JSON text take more memory than is given to them, by the marks between them."""
    if len(text) < _FEW:
        return False
    values = _OBJECT * text.count("{") + _LIST * text.count("[") + _VALUE * text.count(",")
    return values > MOST_BYTES


class Shortened:
    """A stream of JSON in UTF-8 whose longest texts lose what stands beyond ``LONGEST``."""

    def __init__(self, stream: BinaryIO) -> None:
        """Take the stream to read."""
        self._stream, self._run, self._cutting = stream, 0, False
        self.has_cut = False
        """Whether a text was cut; reset it to learn about the next one."""

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, as many as suit; none at the end, and none where none are asked for.

        Raises:
            UnreadableError: If lists or objects hold each other too deep.
        """
        while size and (chunk := self._chunk()):
            _require_shallow(chunk)
            end, begun = _last_quote(chunk), self._cutting
            self._run = self._run + len(chunk) if end < 0 else len(chunk) - end
            self._cutting = end < 0 and self._run > LONGEST
            if begun and not self._cutting:
                return chunk[_rest(chunk) :]
            if not self._cutting:
                return chunk
            self.has_cut = True
            if not begun:
                return chunk[: _rest(chunk)] or b" "
        return b""

    def _chunk(self) -> bytes:
        """Return the next bytes, up to where no escaped character is cut in two."""
        chunk = self._stream.read(_CHUNK)
        while _ends_in_escape(chunk) and (more := self._stream.read(1)):
            chunk += more
        return chunk


def _last_quote(chunk: bytes) -> int:
    """Return where the last quote stands that no backslash escapes; -1 if there is none."""
    end = chunk.rfind(b'"')
    while end > 0 and _is_escaped(chunk[:end]):
        end = chunk.rfind(b'"', 0, end)
    return end


def _ends_in_escape(chunk: bytes) -> bool:
    code = _BEGUN_CODE.search(chunk[-4:])
    return _is_escaped(chunk[: -len(code[0])] if code else chunk)


def _is_escaped(before: bytes) -> bool:
    """Return whether what follows is escaped: an odd number of backslashes stands before it."""
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1


def _require_shallow(chunk: bytes) -> None:
    opened = chunk.count(b"[") + chunk.count(b"{") - chunk.count(b"]") - chunk.count(b"}")
    if opened > _DEEPEST:
        raise UnreadableError("lists hold each other too deep")


def _rest(chunk: bytes) -> int:
    """Return how many bytes at the beginning belong to a character that began before."""
    found = _REST_OF_CHARACTER.match(chunk)
    return found.end() if found else 0
