"""Confines itself and becomes a program that nobody has read: ``python -I -S inside.py SETTINGS``, program on stdin.

That it did so is said over a pipe that the program does not inherit: what stands there is never the program's word.

Started by ``trainer.sandbox.running`` alone, as a file, with the standard library only, and never imported: what it
calls is there on Linux alone.

Source:
    unshare(2), user_namespaces(7), pivot_root(2), prctl(2) and setrlimit(2) of the Linux manual; numbers from
    linux/sched.h, linux/mount.h, linux/prctl.h.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

_NEW_USER, _NEW_OTHERS = 0x10000000, 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
"""A user namespace; one each for mounts, host name, messages between processes, numbers of processes, and network."""
_READ_ONLY, _NO_SUID, _NO_DEVICES, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH = 2
_DIES_WITH_PARENT, _DUMPABLE, _NO_NEW_PRIVILEGES = 1, 4, 38
_NOBODY = 65534
_FOLDER = "/tmp"  # noqa: S108 - of a file system of its own
_PROGRAM = f"{_FOLDER}/program.py"
_LIBC = ctypes.CDLL(None, use_errno=True)


def _called(name: str, *arguments: Any) -> int:
    """Call a function of the C library.

    Raises:
        OSError: If it fails.
    """
    result: int = getattr(_LIBC, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = (os.fsencode(one) if one is not None else None for one in (source, target, kind))
    _called("mount", *encoded, ctypes.c_ulong(flags), None if data is None else data.encode())


def _own_users(proc: int, user: int, group: int) -> None:
    """Enter a user namespace in which nobody else exists, and in which no other can be made."""
    _called("unshare", _NEW_USER)
    _called("prctl", _DUMPABLE, 1, 0, 0, 0)
    for name, text in (
        ("self/setgroups", "deny"),
        ("self/uid_map", f"{user} {user} 1"),
        ("self/gid_map", f"{group} {group} 1"),
        ("sys/user/max_user_namespaces", "0"),
    ):
        file = os.open(name, os.O_WRONLY, dir_fd=proc)
        os.write(file, text.encode())
        os.close(file)


def _own_files(root: str, shown: Sequence[str], tmp_bytes: int) -> None:
    """Make a file system of a few folders of programs, all read-only, and of an empty /tmp."""
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    _mount("none", root, "tmpfs", _NO_SUID | _NO_DEVICES, "size=1m,nr_inodes=4k,mode=755")
    for path in shown:
        given, target = Path(path), root + path
        if given.is_symlink():
            Path(target).symlink_to(given.readlink())
            continue
        (Path(target) if given.is_dir() else Path(target).parent).mkdir(parents=True, exist_ok=True)
        if not given.is_dir():
            Path(target).touch()
        _mount(path, target, None, _BIND)
        # What a mount was not allowed to do must stay forbidden, or the kernel refuses: the lowest bits are the same.
        kept = os.statvfs(target).f_flag & 0xF
        _mount("none", target, None, _REMOUNT | _BIND | kept | _READ_ONLY | _NO_SUID)
    for name in ("tmp", "old"):
        Path(root, name).mkdir()
    limits = f"size={tmp_bytes},nr_inodes=1k,mode=1777"
    _mount("none", root + _FOLDER, "tmpfs", _NO_SUID | _NO_DEVICES, limits)
    _called("pivot_root", os.fsencode(root), os.fsencode(f"{root}/old"))
    os.chdir("/")
    _called("umount2", b"/old", _DETACH)
    Path("/old").rmdir()
    _mount("none", "/", None, _REMOUNT | _BIND | _READ_ONLY | _NO_SUID | _NO_DEVICES)


def _become(program: bytes, settings: Mapping[str, Any]) -> NoReturn:
    """Limit this process, and replace it by the program."""
    Path(_PROGRAM).write_bytes(program)
    os.chdir(_FOLDER)
    _called("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    for name, most in settings["limits"].items():
        resource.setrlimit(getattr(resource, name), (most, most))
    os.dup2(os.open(_PROGRAM, os.O_RDONLY), 0)
    os.lseek(0, 0, os.SEEK_END)
    start = f"import runpy; runpy.run_path({_PROGRAM!r}, run_name='program')"
    python = settings["python"]
    os.write(settings["says"], settings["confined"].encode())
    os.execve(python, [python, "-I", "-B", "-X", "utf8", "-c", start], {})  # noqa: S606 - which is the purpose


def _confined(program: bytes, settings: Mapping[str, Any], proc: int) -> NoReturn:
    """Leave everything behind, in a process that is the first of its namespace: with it all that it started ends."""
    os.setsid()
    _own_files(settings["root"], settings["shown"], settings["tmp_bytes"])
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        _own_users(proc, _NOBODY, _NOBODY)
    os.close(proc)
    _become(program, settings)


def _killed(child: int) -> None:
    with suppress(ProcessLookupError):  # which has ended by itself meanwhile
        os.kill(child, signal.SIGKILL)


def _alone(program: bytes, settings: Mapping[str, Any]) -> int:
    """Run the program in namespaces of its own; return its exit status."""
    _called("prctl", _DIES_WITH_PARENT, signal.SIGTERM, 0, 0, 0)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    if os.geteuid() != 0:
        _own_users(proc, os.geteuid(), os.getegid())
    _called("unshare", _NEW_OTHERS)
    # Held back until the program's process is known, so that it is never left behind.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        try:
            _confined(program, settings, proc)
        except BaseException as error:  # noqa: BLE001 - whatever it is, nothing of this process may go on
            os.write(settings["says"], f"{error}\n".encode(errors="replace"))
        os._exit(1)
    signal.signal(signal.SIGTERM, lambda *_: _killed(child))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(argument: str) -> int:
    """Run the program on standard input; return its exit status, negative for the signal that ended it."""
    settings, program = json.loads(argument), sys.stdin.buffer.read()
    os.set_inheritable(settings["says"], False)  # noqa: FBT003 - has no name
    try:
        if settings["root"]:
            return _alone(program, settings)
        _become(program, settings)
    except OSError as error:
        os.write(settings["says"], f"{error}\n".encode(errors="replace"))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) % 256)
