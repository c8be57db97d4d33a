"""Change one operator or number at a time in the code that decides numbers, and list what the fast tests miss.

``python -m scripts.mutants [--seed N] [--number N] [--jobs N] [--only PATH...]``

Places are drawn at random with the seed, then one of the changes that cosmic-ray makes there. Each is made in a copy of
the working tree, where the package's tests then run that are neither slow nor in a browser, up to the first failure.
Whatever survives is printed: an assertion is missing, or the code is dead.
"""

import argparse
import concurrent.futures
import dataclasses
import difflib
import itertools
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cosmic_ray.ast import Visitor, ast_nodes, get_ast
from cosmic_ray.operators import (
    binary_operator_replacement,
    boolean_replacer,
    comparison_operator_replacement,
    number_replacer,
    unary_operator_replacement,
)
from cosmic_ray.operators.operator import Operator
from parso.tree import NodeOrLeaf, search_ancestor

REPO = Path(__file__).resolve().parent.parent
SEED, NUMBER, JOBS = 1, 60, 2
LEAST_PERCENT = 85
"""The share to catch; a change that means the same to every input cannot be caught."""

PACKAGES = ("specs", "advisor", "estimator")
LEFT_OUT = (
    *("__init__.py", "__main__.py", "specs/doors/door.py", "specs/paths.py", "advisor/export/"),
    *("estimator/accuracy/measure.py", "estimator/tape/library.py", "estimator/tape/shipping.py"),
    *("estimator/tape/tracer_process.py", "estimator/tracer/"),
)
"""Command lines, other tools' formats, files and processes decide no numbers; the tests of the tracer are slow."""

# PIT's default mutators "Conditionals Boundary", "Negate Conditionals", "Math" and "Invert Negatives",
# https://pitest.org/quickstart/mutators/, in Python's operators: >= in place of == often means the same, and an
# operator far from the one that was meant is caught too easily.
COMPARISONS: Mapping[str, tuple[str, ...]] = {
    "Eq": ("NotEq",),
    "NotEq": ("Eq",),
    "Lt": ("LtE", "GtE"),
    "LtE": ("Lt", "Gt"),
    "Gt": ("GtE", "LtE"),
    "GtE": ("Gt", "Lt"),
    "Is": ("IsNot",),
    "IsNot": ("Is",),
}
ARITHMETIC: Mapping[str, tuple[str, ...]] = {
    "Add": ("Sub",),
    "Sub": ("Add",),
    "Mul": ("Div",),
    "Div": ("Mul",),
    "FloorDiv": ("Mul",),
    "Mod": ("Mul",),
    "Pow": ("Mul",),
}
_ARITHMETIC_NODES = ("arith_expr", "term", "power")
"""What those stand in; elsewhere the same signs part arguments, unpack, or name types."""
LOGIC = ("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd")
SIGNS = ("Delete_USub", "Delete_Not")

# The baseline, times this, is all the time that a change may take: beyond it a loop no longer ends.
PATIENCE, LEAST_SECONDS = 4, 60


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change at one place."""

    path: str
    line: int
    before: str
    after: str

    @property
    def package(self) -> str:
        """The package whose tests should notice."""
        return self.path.partition("/")[0]

    def __str__(self) -> str:
        """Return the place and what differs there."""
        lines = difflib.unified_diff(self.before.splitlines(), self.after.splitlines(), lineterm="", n=0)
        return "\n".join([f"{self.path}:{self.line}", *itertools.islice(lines, 3, None)])


class _Visitor(Visitor):
    """Makes the change that an operator has at one position of a tree."""

    def __init__(self, operator: Operator, occurrence: int) -> None:
        self._operator = operator
        self._left = occurrence

    def visit(self, node):  # type: ignore[no-untyped-def]
        for index, _ in enumerate(self._operator.mutation_positions(node)):
            if self._left == 0:
                node = self._operator.mutate(node, index)
            self._left -= 1
        return node


def operators() -> list[Operator]:
    """Return cosmic-ray's operators for the changes named above."""
    pairs = [(comparison_operator_replacement, "ReplaceComparisonOperator", COMPARISONS)]
    pairs += [(binary_operator_replacement, "ReplaceBinaryOperator", ARITHMETIC)]
    found = [
        getattr(module, f"{name}_{one}_{other}")()
        for module, name, table in pairs
        for one, others in table.items()
        for other in others
    ]
    found += [getattr(boolean_replacer, name)() for name in LOGIC]
    found += [getattr(unary_operator_replacement, f"ReplaceUnaryOperator_{name}")() for name in SIGNS]
    return [*found, number_replacer.NumberReplacer()]


def files(only: Sequence[str]) -> list[str]:
    """Return the files to change, of all or of those whose path begins with one of some words."""
    paths = [path.relative_to(REPO).as_posix() for name in PACKAGES for path in sorted((REPO / name).rglob("*.py"))]
    return [
        path
        for path in paths
        if not any(path.startswith(name) or path.endswith(f"/{name}") for name in LEFT_OUT)
        and (not only or path.startswith(tuple(only)))
    ]


Place = tuple[str, tuple[int, int]]
Choices = dict[Place, list[tuple[Operator, int]]]


def places(paths: Sequence[str]) -> Choices:
    """Return every place where something can be changed, with the operators that can and their occurrence."""
    found: Choices = {}
    for path in paths:
        nodes = list(ast_nodes(get_ast((REPO / path).read_text("utf-8"))))
        for operator in operators():
            positions = ((node, start) for node in nodes for start, _ in operator.mutation_positions(node))
            for occurrence, (node, start) in enumerate(positions):
                if not _decides_nothing(node):
                    found.setdefault((path, start), []).append((operator, occurrence))
    return found


def _decides_nothing(node: NodeOrLeaf) -> bool:
    """Return whether a node only looks like an operator, or is an option of a decorator, such as ``frozen=True``."""
    looks_so = node.type == "operator" and node.parent is not None and node.parent.type not in _ARITHMETIC_NODES
    return looks_so or search_ancestor(node, "decorator") is not None


def sample(found: Choices, seed: int, number: int) -> list[Change]:
    """Draw places, and for each one of its changes."""
    draw = random.Random(seed)  # noqa: S311
    chosen = draw.sample(sorted(found), min(number, len(found)))
    return [_change(path, start[0], *draw.choice(found[path, start])) for path, start in chosen]


def _change(path: str, line: int, operator: Operator, occurrence: int) -> Change:
    before = (REPO / path).read_text("utf-8")
    after = _Visitor(operator, occurrence).walk(get_ast(before)).get_code()
    return Change(path=path, line=line, before=before, after=after)


class Copy:
    """A copy of the working tree, in which tests run against one change after another."""

    def __init__(self, folder: Path) -> None:
        """Copy what git tracks or would."""
        self.folder = folder
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=REPO, check=True, capture_output=True, text=True).stdout.split("\0")
        for name in filter(None, names):
            if (REPO / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPO / name, folder / name)

    def passes(self, tests: str, seconds: float | None = None) -> bool:
        """Return whether the fast tests of a folder or file pass in that time."""
        command = [sys.executable, "-m", "pytest", tests, "-x", "-m", "not slow and not browser"]
        command += ["-p", "no:cacheprovider", "--hypothesis-seed=0", f"--basetemp={self.folder / 'tmp'}"]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                return process.wait(seconds) == 0
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return False

    def survives(self, change: Change, seconds: float) -> bool:
        """Return whether the tests of its package pass with a change; the copy is afterwards as before.

        Those that mirror the module go first: most changes are caught there.
        """
        path = self.folder / change.path
        path.write_text(change.after, "utf-8")
        mirror = Path("tests", change.path).with_name(f"test_{path.name}")
        asked = [str(mirror)] if (self.folder / mirror).is_file() else []
        try:
            return all(self.passes(tests, seconds) for tests in (*asked, f"tests/{change.package}"))
        finally:
            path.write_text(change.before, "utf-8")
            shutil.rmtree(self.folder / ".hypothesis", ignore_errors=True)


def patience(copy: Copy, packages: Sequence[str]) -> dict[str, float]:
    """Return the seconds that the tests of each package may take, from a run without a change.

    Raises:
        SystemExit: If they fail without a change.
    """
    allowed = {}
    for package in packages:
        start = time.monotonic()
        if not copy.passes(f"tests/{package}"):
            sys.exit(f"tests/{package}: fails without any change. Make it pass first.")
        allowed[package] = max(LEAST_SECONDS, PATIENCE * (time.monotonic() - start))
    return allowed


def survivors(changes: Sequence[Change], jobs: int) -> Iterator[Change]:
    """Yield the changes that no test notices, each when that is known."""
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for number in range(jobs):
            copies.put(Copy(Path(folder, str(number))))
        allowed = patience(Copy(Path(folder, "unchanged")), sorted({change.package for change in changes}))

        def survives(change: Change) -> bool:
            copy = copies.get()
            try:
                return copy.survives(change, allowed[change.package])
            finally:
                copies.put(copy)

        tried = {pool.submit(survives, change): change for change in changes}
        for done in concurrent.futures.as_completed(tried):
            if done.result():
                yield tried[done]


def main() -> int:
    """Draw, try and tell; return 1 if too few changes are caught."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=SEED, help=f"draws the same changes again (default {SEED})")
    parser.add_argument("--number", type=int, default=NUMBER, help=f"how many changes (default {NUMBER})")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"how many at a time (default {JOBS})")
    parser.add_argument("--only", nargs="*", default=(), metavar="PATH", help="only files whose path begins so")
    arguments = parser.parse_args()
    found = places(files(arguments.only))
    changes = sample(found, arguments.seed, arguments.number)
    print(f"seed {arguments.seed}: {len(changes)} of {len(found):,} places", flush=True)
    missed = 0
    for change in survivors(changes, arguments.jobs):
        missed += 1
        print(f"\nnot caught: {change}", flush=True)
    percent = 100 * (1 - missed / len(changes))
    print(f"\nseed {arguments.seed}: {len(changes) - missed} of {len(changes)} caught, {percent:.0f} %")
    return int(percent < LEAST_PERCENT)


if __name__ == "__main__":
    sys.exit(main())
