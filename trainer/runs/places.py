"""Places other than this machine where runs can train: what a person calls them, and where they are."""

import json
import re
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
_HOME = "/~/"
"""What a folder within the home folder begins with in an address."""
_KINDS: Mapping[str, str] = {
    "ssh": "ssh://host",
    "slurm": "slurm:///shared/folder",
    "ray": "ray://host:8265/shared/folder",
}
"""Each kind of place, and how it is written at its shortest."""
_SCHEDULED = frozenset({"slurm", "ray"})
"""Kinds whose scheduler decides which run comes when, and which share a folder with this machine."""
_WORD = (r"\S+", "one word")
_OPTIONS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "ssh": {"python": (r"\S(?:.*\S)?", "a program")},
    "slurm": {
        **dict.fromkeys(("partition", "account", "qos"), _WORD),
        "minutes": (r"[1-9][0-9]{0,6}", "a whole number from 1"),
        "cluster": ("local|slurm", "local or slurm"),
    },
    "ray": {},
}
"""What may stand after the question mark of each kind, and how its value is written, as a pattern and in words."""
_HOST = re.compile(r"(?:[\w.+\\-]+@)?(?:[\w.-]+|\[[0-9a-f:.]+(?:%\w+)?\])", re.IGNORECASE)
"""A host name, an alias of ssh, or an IP address, after a user; what a shell or ssh would take otherwise is none."""


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
        folder = quote(self.folder) if self.folder.startswith("/") else f"{_HOME}{quote(self.folder)}"
        options = f"?{urlencode(self.options)}" if self.options else ""
        return f"{self.kind}://{self.host}{port}{'' if self.folder == _FOLDER else folder}{options}"

    @property
    def short(self) -> str:
        """What a sentence calls it."""
        return f"{self.kind}://{self.host}" if self.host else f"{self.kind}:{self.folder}"


def where(text: str) -> Where:
    """Return the place that a text names, such as ``ssh://user@host:22/folder?python=python3.12``.

    Raises:
        RunError: If it names none, or says something that a place does not have.
    """
    if any(is_unseen(sign) for sign in text):  # which urlsplit would leave out
        raise RunError("place", "must be written with letters that can be seen", text)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        rule = "must have a host that can be told from its port, and a port from 1 to 65535"
        raise RunError("place", rule, _without_password(text)) from None
    if parts.scheme not in _KINDS:
        written = ", ".join(_KINDS.values())
        raise RunError("place", f"must be one that you have named, or an address such as {written}", text)
    if "#" in text:
        raise RunError("place", "must hold no #, which ends an address", text, "Write %23 for a # in its folder")
    host = parts.netloc if port is None else parts.netloc.removesuffix(f":{port}")
    _require_host(parts.scheme, host, port, text)
    return Where(
        kind=parts.scheme,
        host=host,
        port=port,
        folder=_folder(parts.scheme, parts.path, text),
        options=_options(parts.scheme, parts.query),
    )


def _require_host(kind: str, host: str, port: int | None, text: str) -> None:
    if ":" in host.rpartition("@")[0]:
        raise RunError("place", "must hold no password", None, "Set up a key for ssh, and leave it out")
    if kind == "slurm":
        if host or port is not None:
            raise RunError("place", "must name no host: Slurm is reached from this machine", text, "Write slurm:///")
        return
    if not _HOST.fullmatch(host) or host.startswith("-") or "@-" in host:
        raise RunError("place", f"must name a host, as in {_KINDS[kind]}", text)
    if kind == "ray" and ("@" in host or port is None):
        rule = "must name the head node and the port of its dashboard, and no user"
        raise RunError("place", rule, text, f"Write {_KINDS[kind]}")
    if port == 0:
        raise RunError("place", "must have a port from 1 to 65535", text)


def _folder(kind: str, path: str, text: str) -> str:
    try:
        folder = unquote(path, errors="strict")
    except UnicodeDecodeError:
        raise RunError("place", "must have a folder whose %-signs stand for letters in UTF-8", text) from None
    if folder.startswith("/~") and not f"{folder}/".startswith(_HOME):
        raise RunError("place", "must have a folder of your own user there", text, "Write /~/ for your home folder")
    if f"{folder}/".startswith(_HOME):
        folder = folder[len(_HOME) :].strip("/")
    folder = folder.rstrip("/") or _FOLDER
    if kind in _SCHEDULED and not folder.startswith("/"):
        rule = "must name a folder that this machine and the machines there share"
        raise RunError("place", rule, text, f"Write {_KINDS[kind]}")
    if folder.startswith("-") or any(is_unseen(sign) for sign in folder):
        raise RunError("place", "must have a folder of letters that can be seen, without - at its beginning", text)
    return folder


def _options(kind: str, query: str) -> tuple[tuple[str, str], ...]:
    known = _OPTIONS[kind]
    try:
        found = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError:
        raise RunError("place", "must have NAME=VALUE after the question mark", query) from None
    for name, value in found:
        if name not in known:
            takes = f"takes {', '.join(sorted(known))}" if known else "takes nothing"
            raise RunError("place", f"{takes} after the question mark", name)
        if [other for other, _ in found].count(name) > 1:
            raise RunError("place", f"must say {name} once", query)
        pattern, words = known[name]
        if not re.fullmatch(pattern, value) or any(is_unseen(sign) for sign in value):
            raise RunError("place", f"must have {words} as {name}", value)
    return tuple(sorted(found))


def _without_password(text: str) -> str:
    """Return an address without what stands between a user and the host."""
    return re.sub(r"//([^/@:]*):[^/@]*@", r"//\1@", text)


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
        RunError: If the name cannot be told from an address, or is that of another place.
    """
    if not name or not all(sign.isalnum() or sign in "-_." for sign in name):
        raise RunError("name of a place", "must be letters, digits, dots, dashes and underscores", name)
    known = named(runs_folder)
    if name in known and known[name] != place:
        raise RunError(
            "name of a place", f"is that of {known[name].url}", name, "Take another, or remove that one first"
        )
    _write(runs_folder, {**known, name: place})


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
