"""Write what the README states: the tree, from each module's first line, and how exact the memory is, by comparing."""

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from estimator.__main__ import comparisons
from estimator.accuracy import comparison

REPO = Path(__file__).resolve().parent.parent
README = REPO / "README.md"
LABELS = {"allocated": "peak allocated", "reserved": "peak reserved", "used": "used (nvidia-smi)"}
MEASURED = REPO / "assets" / "measured"
OTHER_FILES = {
    "Makefile": "the commands: run, demo, check, test, accuracy, screenshots, readme",
    "requirements.txt": "what the app runs on, pinned exactly",
    "requirements-test.txt": "what checks and tests need besides",
    "requirements/": "the same and all they need, pinned by hash (scripts/lock.py)",
    "assets/": "facts with their sources: models, cards, tapes, measured peaks; the demo data",
    "tests/": "mirrors the packages; browser/ drives real Chromium, golden/ holds tables with provenance",
    "docs/": "decisions that would surprise a newcomer, screenshots, the fault table",
}


def summary(path: Path) -> str:
    """Return the first line of a module's docstring, without its full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].rstrip(".")


def modules() -> list[Path]:
    """Return the modules that belong to the project, tests left out, in the order of a directory tree."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],  # noqa: S607  (the git in use)
        cwd=REPO,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    paths = [Path(name) for name in listed if not name.startswith("tests/") and (REPO / name).exists()]
    return sorted(paths, key=lambda path: (len(path.parts) == 1 and path.name != "app.py", path.parts[:-1], path.name))


def tree() -> str:
    """Return the tree as indented text."""
    lines: list[str] = []
    folder = Path()
    for path in modules():
        if path.parent != folder:
            folder = path.parent
            init = REPO / folder / "__init__.py"
            lines.append(line(f"{folder}/", 0, summary(init) if init.exists() else ""))
        if path.name != "__init__.py":
            lines.append(line(path.name, len(path.parts) > 1, summary(REPO / path)))
    return "\n".join(lines + [line(name, 0, text) for name, text in OTHER_FILES.items()]) + "\n"


def line(name: str, depth: int, text: str) -> str:
    """Return one line of the tree."""
    return f"{'  ' * depth + name:<28} {text}".rstrip()


def accuracy_table(found: Sequence[comparison.Comparison]) -> str:
    """Return the errors of all measured rows as a table in Markdown."""
    lines = ["| | rows | mean error | worst too low | worst too high |", "|---|---|---|---|---|"]
    for kind in comparison.KINDS:
        total = comparison.summary(found, kind)
        errors = (total.mean_abs_error, total.worst_under, total.worst_over)
        cells = " | ".join("" if error is None else percent(error) for error in errors)
        lines.append(f"| {LABELS[kind]} | {total.n} | {cells} |")
    return "\n".join(lines) + "\n"


def percent(error: float) -> str:
    """Return the size of an error in percent, with two digits that tell something."""
    share = abs(error) * 100
    return f"{share:.2f} %" if share < 1 else f"{share:.1f} %"


def accuracy_text(found: Sequence[comparison.Comparison], day: date) -> str:
    """Return the sentence above the table, and the table."""
    cards = " and ".join(dict.fromkeys(entry.row.gpu for entry in found))
    runs = f"{len(found)} measured runs on {cards} (rows with their sources in `assets/measured/`)"
    return f"`make accuracy` on {day}, against {runs}:\n\n{accuracy_table(found)}"


def measured_rows() -> list[comparison.Comparison]:
    """Return the predictions of every measured row that the project holds."""
    return [entry for file in sorted(MEASURED.glob("*.csv")) for entry in comparisons(file)]


def updated(text: str, today: date) -> str:
    """Return a README with tree and accuracy brought up to date; the date stays while the figures do."""
    before, content, after = block(text, "accuracy")
    found = measured_rows()
    known = re.search(r"on (\d{4}-\d\d-\d\d)", content)
    day = date.fromisoformat(known[1]) if known and accuracy_table(found) in content else today
    text = before + accuracy_text(found, day) + after
    before, _, after = block(text, "tree")
    return f"{before}```\n{tree()}```\n{after}"


def block(text: str, name: str) -> tuple[str, str, str]:
    """Return what stands before, in and after a generated part of the README, its marks left outside."""
    begin, end = f"<!-- {name}: make readme -->\n", f"<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    content, _, after = rest.partition(end)
    return before + begin, content, end + after


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8"), datetime.now(UTC).date()), encoding="utf-8")
    sys.exit(0)
