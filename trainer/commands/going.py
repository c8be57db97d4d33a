"""Commands about other places that runs train at: name one, look whether it can be used, forget it."""

import argparse
import json
from collections.abc import Callable, Iterator
from typing import Any

from specs import RunError
from trainer.away.executors import executor_of
from trainer.runs import places
from trainer.runs.store import Store

ON = "train elsewhere: a place that `place add` named, or an address such as ssh://host"


def device(store: Store, place: str, wanted: str | None) -> str:
    """Return the device of a run that trains at a place: the wanted one, or the first there.

    Raises:
        RunError: If there is no such place, or it cannot be used.
    """
    found = places.found(store.folder, place)
    ground = executor_of(found).check()
    return f"{wanted or ground.devices[0]}{places.AT}{found.url}"


def commands() -> Iterator[tuple[str, Callable[[Store, argparse.Namespace], int], str, dict[str, dict[str, Any]]]]:
    """Yield each command with what it does, in words and in code, and its options."""
    options: dict[str, dict[str, Any]] = {
        "deed": {"choices": tuple(_DEEDS), "metavar": "DEED", "help": f"one of {', '.join(_DEEDS)}"},
        "name": {"nargs": "?", "default": "", "metavar": "NAME", "help": "what you call it; for check also an address"},
        "address": {
            "nargs": "?",
            "default": "",
            "metavar": "ADDRESS",
            "help": "ssh://[user@]host[:port][/folder][?python=PATH], slurm:///shared/folder[?partition=NAME], or "
            "ray://host:8265/shared/folder",
        },
    }
    yield "place", _place, "other machines that runs train on: add, list, check and remove them", options


def _place(store: Store, given: argparse.Namespace) -> int:
    takes = _TAKES[given.deed]
    for number, name in enumerate(("name", "address")):
        if getattr(given, name) and number >= takes:
            raise RunError(name, f"belongs to no place {given.deed}", getattr(given, name), "Leave it out")
    told = _DEEDS[given.deed](store, given)
    print(json.dumps(told, indent=2) if given.json else "\n".join(f"{name}: {text}" for name, text in told.items()))
    return 0


def _add(store: Store, given: argparse.Namespace) -> dict[str, str]:
    found = places.where(given.address)
    told = executor_of(found).check().sentence
    places.keep(store.folder, given.name, found)
    return {given.name: told}


def _list(store: Store, _given: argparse.Namespace) -> dict[str, str]:
    return {name: place.url for name, place in places.named(store.folder).items()}


def _check(store: Store, given: argparse.Namespace) -> dict[str, str]:
    return {given.name: executor_of(places.found(store.folder, given.name)).check().sentence}


def _remove(store: Store, given: argparse.Namespace) -> dict[str, str]:
    places.forget(store.folder, given.name)
    return {given.name: "removed; what is there is untouched"}


_TAKES = {"add": 2, "list": 0, "check": 1, "remove": 1}
"""How many of name and address each deed is about."""
_DEEDS: dict[str, Callable[[Store, argparse.Namespace], dict[str, str]]] = {
    "add": _add,
    "list": _list,
    "check": _check,
    "remove": _remove,
}
