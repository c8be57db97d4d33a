"""What the tests of a row may take from an answer, as the answer in the data says: names, and objects of classes."""

import ast
import re
import symtable
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

_ORDER = ("lt", "le", "gt", "ge")
_BUILT_ON_OTHERS = ("eq", "ne", *_ORDER, "contains")


@dataclass(frozen=True, slots=True)
class Offered:
    """What tests may take from an answer."""

    names: frozenset[str] = frozenset()
    """Names that it defines; all others are the tests' own, or Python's."""
    imports: str = ""
    """What the answer in the data imports, which its tests may use too."""
    believed: tuple[str, ...] | None = None
    """Operations, such as ``eq``, in which its objects are believed; None where it has no objects to hand over."""


def offered(right: str, entry_point: str = "") -> Offered:
    """Return what tests may take from any answer to a question, given the code of the right one."""
    names = {entry_point} - {""}
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(right)
            table = symtable.symtable(right, "answer", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Offered(frozenset(names))
    names |= {one.get_name() for one in table.get_symbols() if one.is_assigned()}
    imports = [one for one in tree.body if isinstance(one, ast.Import | ast.ImportFrom) and not _is_future(one)]
    classes = [one for one in ast.walk(tree) if isinstance(one, ast.ClassDef)]
    believed = tuple(sorted({*_believed(classes)})) if classes else None
    return Offered(frozenset(names), "\n".join(map(ast.unparse, imports)), believed)


def _is_future(statement: ast.Import | ast.ImportFrom) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _believed(classes: list[ast.ClassDef]) -> Iterator[str]:
    """Yield the operations that some classes define, themselves or by what they are built on."""
    own = {one.name for one in classes}
    for one in classes:
        for inner in ast.walk(one):
            if isinstance(inner, ast.FunctionDef) and (found := re.fullmatch(r"__(\w+)__", inner.name)):
                yield found[1]
        if any("dataclass" in ast.unparse(decorator) for decorator in one.decorator_list):
            yield from ("eq", "ne", *_ORDER)
        if any("total_ordering" in ast.unparse(decorator) for decorator in one.decorator_list):
            yield from _ORDER
        above = {ast.unparse(base).rpartition(".")[2].partition("[")[0] for base in one.bases}
        if above - own - {"object", "ABC", "Exception", "Generic", "Protocol"}:
            yield from _BUILT_ON_OTHERS
