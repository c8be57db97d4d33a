"""What the pages for people name exists: files, modules, targets of make, commands and their options, links."""

import contextlib
import functools
import importlib
import importlib.util
import io
import re
from pathlib import Path

import pytest

from specs.paths import REPO

PAGES = sorted([*REPO.glob("*.md"), *(REPO / "docs").rglob("*.md")])
DOORS = ("advisor", "catalog", "estimator", "trainer")
OURS = (*DOORS, "specs", "lorafit", "ui", "scripts", "assets", "tests", "docs", "requirements")
pages = pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(REPO))) for page in PAGES])


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@functools.cache
def files() -> tuple[Path, ...]:
    return tuple(path for name in (*OURS, ".") for path in (REPO / name).glob("*" if name == "." else "**/*"))


@functools.cache
def help_of(module: str, command: str = "") -> str:
    """Return what a door prints about itself, or about one of its commands."""
    arguments = [command, "--help"] if command else ["--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        importlib.import_module(f"{module}.__main__").main(arguments)
    return said.getvalue()


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    linked = re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)", text(page))
    for name, section in linked:
        target = page.parent / name if name else page
        assert target.exists(), name
        titles = [re.sub(r"[^\w\- ]", "", title).replace(" ", "-").lower() for title in headings(target)]
        assert not section or section in titles, section


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", text(page), flags=re.MULTILINE) if page.suffix == ".md" else []


@pages
def test_every_path_exists(page: Path) -> None:
    named = re.findall(rf"(?<![\w/.\\-])((?:{'|'.join(OURS)})/[\w./*-]*)", text(page))
    assert [name for name in named if not any(REPO.glob(name.rstrip("./")))] == []
    alone = re.findall(r"`(\w+\.(?:py|toml|csv))`", text(page))
    assert [name for name in alone if not any(found.match(name) for found in files())] == []


@pages
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text(REPO / "Makefile"), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text(page))) <= targets


@pages
def test_every_module_that_is_run_exists(page: Path) -> None:
    for name in re.findall(r"python3? -m ([a-z_.]+\w)", text(page)):
        assert importlib.util.find_spec(name), name
        spec = importlib.util.find_spec(f"{name}.__main__") if name in DOORS else None
        assert spec or name not in DOORS, name


@pages
def test_every_command_and_option_of_a_door_exists(page: Path) -> None:
    for module, rest in re.findall(rf"python -m ({'|'.join(DOORS)})\b([^`\n|>]*)", text(page)):
        command = (re.match(r" ([a-z]+)\b", rest) or [""])[0].strip()
        told = help_of(module)
        assert not command or re.search(rf"\b{command}\b", told), f"{module} {command}"
        told = help_of(module, command) if command and module in {"trainer", "estimator"} else told
        for option in re.findall(r"(?<![\w-])--[a-z0-9-]+", rest):
            assert option in told, f"{module} {command} {option}"
