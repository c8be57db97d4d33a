"""Write the generated parts of README.md and docs/: folders, modules, contracts, accuracy, layouts of data."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from estimator.__main__ import comparisons
from estimator.accuracy import comparison
from trainer.data.forms.layouts import LAYOUTS, Layout

REPO = Path(__file__).resolve().parent.parent
README = REPO / "README.md"
ARCHITECTURE = REPO / "docs" / "architecture.md"
DATA = REPO / "docs" / "data.md"
LABELS = {
    "allocated": "published, older libraries: peak allocated",
    "reserved": "published, older libraries: peak reserved",
    "used": "published, older libraries: used (nvidia-smi)",
}
"""What runs of others are called, by what was measured."""
OWN_LABELS = {
    name: f"this trainer: {words}"
    for name, words in (
        ("allocated", "peak allocated"),
        ("reserved", "peak reserved"),
        ("used", "used (on a CPU, the memory of the worker)"),
    )
}
"""What runs of LoRAFit's own trainer are called."""
MEASURED = REPO / "assets" / "measured"
OTHER_FOLDERS = {
    "assets": "Facts with their sources: models, GPUs, tapes, measured peaks; the demo data",
    "docs": "Architecture, set-up, training data, surprising decisions, the fault table, screenshots",
    "requirements": "All packages with their hashes (scripts/lock.py writes them)",
    "tests": "Mirrors the packages; golden/ holds tables with provenance, browser/ drives real Chromium",
}
"""Folders without code of the project."""
_FIRST_LOOK = 2


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
    return sorted(paths, key=lambda path: (path.parts[:-1], path.name))


def folders() -> dict[Path, str]:
    """Return each folder with code and the first line of its docstring."""
    inits = (path for path in modules() if path.name == "__init__.py")
    return {path.parent: summary(REPO / path) for path in inits}


def folder_tree() -> str:
    """Return folders as an indented tree, as deep as a first look goes; docs/architecture.md names all."""
    told = {**folders(), **{Path(name): text for name, text in OTHER_FOLDERS.items()}}
    told = {path: text for path, text in told.items() if len(path.parts) <= _FIRST_LOOK}
    lines = (f"{'  ' * (len(path.parts) - 1) + path.name + '/':<15} {text}" for path, text in sorted(told.items()))
    return "\n".join(lines) + "\n"


def module_list() -> str:
    """Return all modules by folder, in Markdown, each as a link with its first line."""
    by_folder: dict[Path, list[Path]] = {}
    for path in modules():
        by_folder.setdefault(path.parent, []).append(path)
    return "\n".join(line for folder, paths in by_folder.items() for line in _section(folder, paths))


def _section(folder: Path, paths: Sequence[Path]) -> Iterator[str]:
    if folder.parts:
        yield f"### {folder}/\n\n{folders()[folder]}.\n"
    for path in paths:
        if path.name != "__init__.py":
            yield f"- [`{path.name}`](../{path}): {summary(REPO / path)}"
    yield ""


def contracts() -> str:
    """Return import-linter's contracts as a list in Markdown: what `make check` enforces."""
    config = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
    return "".join(f"- {_sentence(contract)}\n" for contract in config["tool"]["importlinter"]["contracts"])


def _sentence(contract: dict[str, Any]) -> str:
    layers = contract.get("layers")
    above = f": {' → '.join(f'`{layer}`' for layer in layers)}" if layers else ""
    return f"{contract['name']}{above}"


def accuracy_table(found: Sequence[comparison.Comparison]) -> str:
    """Return the errors of all measured rows as a table in Markdown, published runs apart from this trainer's."""
    lines = ["| | rows | mean error | worst too low | worst too high |", "|---|---|---|---|---|"]
    for own, labels in ((False, LABELS), (True, OWN_LABELS)):
        rows = [entry for entry in found if entry.row.by_own_trainer is own]
        lines += [_line(labels[kind], comparison.summary(rows, kind)) for kind in comparison.KINDS if _has(rows, kind)]
    return "\n".join(lines) + "\n"


def _has(found: Sequence[comparison.Comparison], kind: comparison.Kind) -> bool:
    return comparison.summary(found, kind).n > 0


def _line(label: str, total: comparison.Summary) -> str:
    errors = (total.mean_abs_error, total.worst_under, total.worst_over)
    cells = " | ".join("" if error is None else percent(error) for error in errors)
    return f"| {label} | {total.n} | {cells} |"


def percent(error: float) -> str:
    """Return the size of an error in percent, with two digits that tell something."""
    share = abs(error) * 100
    return f"{share:.2f} %" if share < 1 else f"{share:.1f} %"


def accuracy_text(found: Sequence[comparison.Comparison], day: date) -> str:
    """Return the sentence above the table, and the table."""
    cards = dict.fromkeys(entry.row.gpu for entry in sorted(found, key=lambda entry: entry.row.by_own_trainer))
    *names, last = cards
    named = f"{', '.join(names)} and {last}" if names else last
    runs = f"{len(found)} measured runs on {named} (rows with their sources in `assets/measured/`)"
    return f"`make accuracy` on {day}, against {runs}:\n\n{accuracy_table(found)}"


def measured_rows() -> list[comparison.Comparison]:
    """Return the predictions of every measured row that the project holds."""
    return [entry for file in sorted(MEASURED.glob("*.csv")) for entry in comparisons(file)]


def updated_readme(text: str, today: date) -> str:
    """Return a README with folders and accuracy brought up to date; the date stays while the figures do."""
    before, content, after = block(text, "accuracy")
    found = measured_rows()
    known = re.search(r"on (\d{4}-\d\d-\d\d)", content)
    day = date.fromisoformat(known[1]) if known and accuracy_table(found) in content else today
    text = before + accuracy_text(found, day) + after
    before, _, after = block(text, "folders")
    return f"{before}```\n{folder_tree()}```\n{after}"


def updated_architecture(text: str) -> str:
    """Return docs/architecture.md with contracts and modules brought up to date."""
    before, _, after = block(text, "contracts")
    text = before + contracts() + after
    before, _, after = block(text, "modules")
    return before + module_list() + after


def updated_data(text: str) -> str:
    """Return docs/data.md with the table of layouts brought up to date."""
    before, _, after = block(text, "layouts")
    return before + layout_table() + after


def layout_table() -> str:
    """Return every layout that is recognised as a table in Markdown, those of one source in one line."""
    lines = ["| Task | Columns | May have | Described by |", "|---|---|---|---|"]
    by_source: dict[tuple[str, str], list[Layout]] = {}
    for layout in LAYOUTS:
        by_source.setdefault((layout.task, layout.source), []).append(layout)
    for (task, source), layouts in by_source.items():
        optional = dict.fromkeys(name for layout in layouts for name in layout.optional)
        lines.append(f"| {task} | {_columns(task, layouts)} | {_names(optional, ', ')} | {source} |")
    return "\n".join(lines) + "\n"


def _columns(task: str, layouts: Sequence[Layout]) -> str:
    """Return the columns of layouts, first columns that go with the same others side by side."""
    if task == "unpaired":
        marks = dict.fromkeys(layout.roles[-1] for layout in layouts)
        return f"those of any layout of answers + {_names(marks, ' / ')}"
    firsts: dict[tuple[str, ...], list[str]] = {}
    for layout in layouts:
        firsts.setdefault(layout.roles[1:], []).append(layout.roles[0])
    return "<br>".join(" + ".join([_names(first, " / "), *map(_code, rest)]) for rest, first in firsts.items())


def _names(names: Iterable[str], between: str) -> str:
    return between.join(map(_code, names))


def _code(name: str) -> str:
    return f"`{name}`"


def block(text: str, name: str) -> tuple[str, str, str]:
    """Return what stands before, in and after a generated part of a page, its marks left outside."""
    begin, end = f"<!-- {name}: make readme -->\n", f"<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    content, _, after = rest.partition(end)
    return before + begin, content, end + after


def main() -> int:
    """Write all pages; return the exit status."""
    today = datetime.now(UTC).date()
    README.write_text(updated_readme(README.read_text(encoding="utf-8"), today), encoding="utf-8")
    ARCHITECTURE.write_text(updated_architecture(ARCHITECTURE.read_text(encoding="utf-8")), encoding="utf-8")
    DATA.write_text(updated_data(DATA.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
