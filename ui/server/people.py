"""Who else can log in to this machine: everybody who can, reaches a server on its loopback address."""

import importlib
import os
from pathlib import Path

import psutil

_NO_SHELLS = ("nologin", "false", "sync")
_PEOPLES_IDS = range(1000, 60_001)
"""UID_MIN and UID_MAX of login.defs(5), as distributions set them; systemd's nobody is 65534."""
_PEOPLES_IDS_OF_MACOS = range(500, 60_001)
_HOMES = (Path("/home"), Path("/Users"), Path("C:/Users"))
_NOBODYS_HOMES = {"Public", "Default", "Default User", "All Users", "Shared", "Guest", "lost+found"}


def others() -> set[str]:
    """Return the names of people other than this user who can log in here, as far as the machine tells.

    Accounts with a login shell and a way to log in, home folders without a local account (a directory service lists no
    accounts, but leaves folders), and whoever is logged in now.
    """
    listed = _accounts()
    able = {name for name, home in listed.items() if can_log_in(name, Path(home))}
    return (able | (_home_folders() - listed.keys()) | {user.name for user in psutil.users()}) - {_own_name()}


def has_login(uid: int, shell: str, ids: range = _PEOPLES_IDS) -> bool:
    """Return whether an account is a person's: its number is, and its shell lets somebody in."""
    return uid in ids and Path(shell).name not in _NO_SHELLS


def _own_name() -> str:
    return psutil.Process().username().rpartition("\\")[2]


def can_log_in(name: str, home: Path, shadow: Path = Path("/etc/shadow")) -> bool:
    """Return whether an account has a password or a key; true where this user may not know.

    Images of containers and of clouds have accounts for people that nobody has a way into: ``!`` or ``*`` stands in
    place of the password (shadow(5)).
    """
    try:
        lines = shadow.read_text(encoding="utf-8", errors="replace").splitlines()
        has_key = (home / ".ssh" / "authorized_keys").is_file()
    except OSError:
        return True
    passwords = {line.split(":")[0]: line.split(":")[1] for line in lines if line.count(":") > 1}
    return has_key or not passwords.get(name, "").startswith(("!", "*"))


def _accounts() -> dict[str, str]:
    """Return the accounts of people with their home folders; none where the machine has no list, as on Windows."""
    if os.name != "posix":
        return {}
    ids = _PEOPLES_IDS_OF_MACOS if psutil.MACOS else _PEOPLES_IDS
    entries = importlib.import_module("pwd").getpwall()
    return {entry.pw_name: entry.pw_dir for entry in entries if has_login(entry.pw_uid, entry.pw_shell, ids)}


def _home_folders() -> set[str]:
    found: set[str] = set()
    for folder in _HOMES:
        if folder.is_dir():
            found |= {home.name for home in folder.iterdir() if home.is_dir() and not home.name.startswith(".")}
    return found - _NOBODYS_HOMES
