"""Write the README's tree: one line per file, taken from each module's own first line."""

import ast
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
README = REPO / "README.md"
BEGIN, END = "<!-- tree: make readme -->\n```\n", "```\n<!-- /tree -->"
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


def updated(text: str) -> str:
    """Return a README with its tree brought up to date."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + tree() + END + rest.partition(END)[2]


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
