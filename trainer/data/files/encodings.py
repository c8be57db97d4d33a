"""How text files are encoded, as people save them."""

import codecs
from pathlib import Path

from specs import MIB

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PROBED_BYTES = 4 * MIB


def encoding(path: Path) -> str:
    """Return how a text file is encoded: by its byte order mark, else UTF-8, else Windows' cp1252.

    A csv from a spreadsheet is often cp1252; any other bytes that are no UTF-8 are refused when they are read.
    """
    with path.open("rb") as stream:
        head = stream.read(_PROBED_BYTES)
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is not None:
        return marked
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "cp1252" if path.suffix.lower() in {".csv", ".tsv"} else "utf-8"
    return "utf-8"
