"""Keeps runs in order: lists, names, notes, archive and trash."""

import argparse
import json
from collections.abc import Callable, Iterator
from typing import Any

from specs import gib
from trainer.commands.showing import show
from trainer.runs.export import run_dict
from trainer.runs.storage import shelf
from trainer.runs.store import Store

Command = Callable[[Store, argparse.Namespace], int]


def commands() -> Iterator[tuple[str, Command, str, dict[str, dict[str, Any]]]]:
    """Yield each command with what it does, in words and in code, and its options."""
    run_id: dict[str, dict[str, Any]] = {"id": {"metavar": "ID"}}
    undo: dict[str, dict[str, Any]] = {"--undo": {"action": "store_true", "help": "take it back"}}
    shelves: dict[str, dict[str, Any]] = {
        "--archived": {"action": "store_true", "help": "list the archived runs too"},
        "--deleted": {"action": "store_true", "help": "list the deleted runs instead, which can still come back"},
    }
    yield "list", _list, "list runs, newest first", shelves
    yield "rename", _rename, "give a run a name; an empty one takes it away", {**run_id, "name": {"metavar": "NAME"}}
    yield "note", _note, "write a note to a run; an empty one takes it away", {**run_id, "text": {"metavar": "TEXT"}}
    yield "archive", _archive, "put a run away: it is listed when asked for", {**run_id, **undo}
    yield (
        "delete",
        _delete,
        f"delete a run; --undo brings it back for {shelf.TRASH_DAYS} days",
        {**run_id, **undo},
    )


def _list(store: Store, given: argparse.Namespace) -> int:
    there = store.deleted() if given.deleted else store.runs()
    runs = [run for run in there if given.archived or given.deleted or run.archived_at is None]
    if given.json:
        print(json.dumps([run_dict(run) for run in runs], indent=2))
        return 0
    for run in runs:
        steps = f"{run.step}/{run.total_steps or '?'}"
        name = f"  {run.name}" if run.name else ""
        print(f"{run.id}  {run.state:<10} {steps:>11}  {run.plan.method:<9} {run.plan.model_name_or_path}{name}")
    if left := len(there) - len(runs):
        print(f"In the archive: {left:,}. See list --archived.")
    elif not runs:
        print(f"No runs in {store.folder}.")
    return 0


def _rename(store: Store, given: argparse.Namespace) -> int:
    show(store.describe(given.id, name=given.name), store, as_json=given.json)
    return 0


def _note(store: Store, given: argparse.Namespace) -> int:
    show(store.describe(given.id, note=given.text), store, as_json=given.json)
    return 0


def _archive(store: Store, given: argparse.Namespace) -> int:
    show(store.archive(given.id, archived=not given.undo), store, as_json=given.json)
    return 0


def _delete(store: Store, given: argparse.Namespace) -> int:
    if given.undo:
        show(store.take_back(given.id), store, as_json=given.json)
        return 0
    size = store.size_bytes(store.run(given.id).id)
    store.delete(given.id)
    if given.json:
        print(json.dumps({"id": given.id, "size_bytes": size, "days": shelf.TRASH_DAYS}))
    else:
        print(f"Deleted {given.id} ({gib(size)}). For {shelf.TRASH_DAYS} days, delete --undo brings it back.")
    return 0
