"""Places other than this machine where runs can train: what a person calls them, and where they are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from specs import RunError
from specs.doors.reading import small_text
from specs.signs import is_unseen

FILE = "places.json"
"""Where the runs folder keeps the places that a person has named."""

AT = "@"
"""What stands between a torch device and the place that has it: ``cuda:0@ssh://host``."""

_FOLDER = "lorafit"
"""Where a place keeps what is sent to it unless its person says otherwise, in the home folder there."""
_KINDS: Mapping[str, str] = {"ssh": "ssh://host", "slurm": "slurm:///shared/folder"}
"""Each kind of place, and how it is written at its shortest."""
_SCHEDULED = frozenset({"slurm"})
_OPTIONS: Mapping[str, frozenset[str]] = {
    "ssh": frozenset({"python"}),
    "slurm": frozenset({"partition", "account", "qos", "minutes", "cluster"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A place: how it is reached, and the folder in it that is LoRAFit's."""

    kind: str
    host: str = ""
    """With the user before it, if one is named, as OpenSSH takes it."""
    port: int | None = None
    folder: str = _FOLDER
    """Absolute, or within the home folder there."""
    options: tuple[tuple[str, str], ...] = ()

    def option(self, name: str, default: str = "") -> str:
        """Return what was said after the question mark."""
        return dict(self.options).get(name, default)

    @property
    def url(self) -> str:
        """The place in one word, as the store keeps it."""
        port = f":{self.port}" if self.port is not None else ""
        folder = quote(self.folder) if self.folder.startswith("/") else f"/~/{quote(self.folder)}"
        options = f"?{urlencode(self.options)}" if self.options else ""
        return f"{self.kind}://{self.host}{port}{'' if self.folder == _FOLDER else folder}{options}"

    @property
    def short(self) -> str:
        """What a sentence calls it."""
        return f"{self.kind}://{self.host}" if self.host else f"{self.kind}:{self.folder}"


def where(text: str) -> Where:
    """Return the place that a text names, such as ``ssh://user@host:22/folder?python=python3.12``.

    Raises:
        RunError: If it names none.
    """
    try:
        parts = urlsplit(text)
        found = Where(
            kind=parts.scheme,
            host=parts.netloc.removesuffix(f":{parts.port}") if parts.port is not None else parts.netloc,
            port=parts.port,
            folder=unquote(parts.path).removeprefix("/~/").rstrip("/") or _FOLDER,
            options=tuple(sorted(parse_qsl(parts.query, strict_parsing=bool(parts.query)))),
        )
    except ValueError:
        found = Where(kind="")
    _require_usable(found, text)
    return found


def _require_usable(found: Where, text: str) -> None:
    if found.kind not in _KINDS:
        written = ", ".join(_KINDS.values())
        raise RunError("place", f"must be one that you have named, or an address such as {written}", text)
    if ":" in found.host.partition("@")[0] and "@" in found.host:
        raise RunError("place", "must hold no password", None, "Set up a key for ssh, and leave it out")
    if found.kind != "slurm" and (not found.host or found.host.startswith("-")):
        raise RunError("place", f"must name a host, as in {_KINDS[found.kind]}", text)
    if found.kind in _SCHEDULED and not found.folder.startswith("/"):
        rule = "must name a folder that this machine and the machines there share"
        raise RunError("place", rule, text, f"Write {_KINDS[found.kind]}")
    if found.folder.startswith("-") or any(is_unseen(sign) for sign in found.folder + found.host):
        raise RunError("place", "must be written with letters that can be seen", text)
    known = _OPTIONS[found.kind]
    if unknown := sorted({name for name, _ in found.options} - known):
        rule = f"takes {', '.join(sorted(known)) or 'nothing'} after the question mark"
        raise RunError("place", rule, unknown[0])


def queues_itself(device: str) -> bool:
    """Return whether the place of a device decides itself which run comes when."""
    return device.partition(AT)[2].partition(":")[0] in _SCHEDULED


def named(runs_folder: Path) -> dict[str, Where]:
    """Return the places that a person has named, by name.

    Raises:
        RunError: If the file that holds them cannot be read.
    """
    path = runs_folder / FILE
    if not path.exists():
        return {}
    try:
        known = json.loads(small_text(path, "places", most_bytes=1 << 20, refusal=RunError))
        return {str(name): where(str(url)) for name, url in known.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise RunError(str(path), "must hold names and addresses of places in JSON", None, "Remove it") from error


def found(runs_folder: Path, text: str) -> Where:
    """Return the place that a person means: by the name they gave it, or by its address.

    Raises:
        RunError: If there is none.
    """
    known = named(runs_folder)
    return known[text] if text in known else where(text)


def keep(runs_folder: Path, name: str, place: Where) -> None:
    """Name a place.

    Raises:
        RunError: If the name cannot be told from an address.
    """
    if not name or not all(sign.isalnum() or sign in "-_." for sign in name):
        raise RunError("name of a place", "must be letters, digits, dots, dashes and underscores", name)
    _write(runs_folder, {**named(runs_folder), name: place})


def forget(runs_folder: Path, name: str) -> None:
    """Forget a place; runs that are there are not touched.

    Raises:
        RunError: If none has this name.
    """
    known = named(runs_folder)
    if name not in known:
        raise RunError("place", "must be one that you have named", name, f"Known: {', '.join(known) or 'none'}")
    _write(runs_folder, {other: place for other, place in known.items() if other != name})


def _write(runs_folder: Path, known: Mapping[str, Where]) -> None:
    scratch = runs_folder / f".{FILE}.new"
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=0o600)
    scratch.write_text(json.dumps({name: place.url for name, place in known.items()}, indent=1), encoding="utf-8")
    scratch.replace(runs_folder / FILE)
