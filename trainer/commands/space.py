"""Prints what takes space on the disk and what removing it costs, and removes what is named."""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from specs import RunError, gib
from specs.taken import Taken
from trainer.results import disk
from trainer.runs.store import Store

OPTIONS: dict[str, dict[str, Any]] = {
    "--remove": {
        "nargs": "+",
        "default": [],
        "choices": disk.KINDS,
        "metavar": "KIND",
        "help": f"remove what is of these kinds: {', '.join(disk.KINDS)}",
    },
    "--dry-run": {"action": "store_true", "help": "only say what --remove would remove"},
}


def show_space(store: Store, given: argparse.Namespace, kept: Callable[[], Iterable[Taken]]) -> int:
    """Print what there is, or remove what is named; return the exit status.

    Args:
        store: Where the runs are kept.
        given: The command's arguments.
        kept: Tells what is kept of estimates.

    Raises:
        RunError: If something is to be tried that was not named.
    """
    if given.dry_run and not given.remove:
        raise RunError("--dry-run", "says what --remove would remove", None, "Name kinds with --remove")
    found = disk.found(store, kept())
    if not given.remove:
        _print_all(found, disk.free_bytes(store), as_json=given.json)
        return 0
    wanted = [one for one in found if one.kind in given.remove]
    freed = [_dry(one) if given.dry_run else disk.remove(store, one) for one in wanted]
    freed += [
        disk.Freed(kind=kind, num_bytes=0)
        for kind in dict.fromkeys(given.remove)
        if kind not in {one.kind for one in wanted}
    ]
    if given.json:
        entries = [{"kind": one.kind, "bytes": one.num_bytes, "left": one.left} for one in freed]
        print(json.dumps({"dry_run": given.dry_run, "freed": entries}, indent=2))
    else:
        _print_freed(freed, wanted, would=given.dry_run)
    return 0


def _dry(one: Taken) -> disk.Freed:
    return disk.Freed(kind=one.kind, num_bytes=one.num_bytes)


def _print_all(found: Sequence[Taken], free: int, *, as_json: bool) -> None:
    total = sum(one.num_bytes for one in found)
    if as_json:
        print(json.dumps({"kinds": [one.to_dict() for one in found], "bytes": total, "free_bytes": free}, indent=2))
        return
    width = max(len(one.kind) for one in found)
    for one in found:
        print(f"{one.kind:<{width}}  {gib(one.num_bytes):>10}  {one.label} ({one.number:,})")
        print(f"{'':<{width}}  {'':>10}  {one.cost}")
    print(f"In all {gib(total)}; {gib(free)} are free. Remove one kind with --remove KIND.")


def _print_freed(freed: Sequence[disk.Freed], wanted: Sequence[Taken], *, would: bool) -> None:
    costs = {one.kind: one.cost for one in wanted}
    for one in freed:
        if one.kind not in costs:
            print(f"{one.kind}: there is nothing to remove.")
            continue
        print(f"{one.kind}: {'would free' if would else 'freed'} {gib(one.num_bytes)}. {costs[one.kind]}")
        for sentence in one.left:
            print(f"  {sentence}")
