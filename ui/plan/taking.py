"""What a click on an offered change fixes: the change, and what advice would move along with it. Draws nothing."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from advisor.search import same_in_memory
from specs import FinetunePlan
from ui.plan import fields
from ui.plan.planning import Request, proposal

_FIXED = ("method", *fields.ALL)


def taken(asked: Request, field: str, offered: FinetunePlan) -> dict[str, Any]:
    """Return the settings with which the page advises what was offered, with exactly its memory.

    What decides no memory, such as the learning rate, follows the change as advised.

    Args:
        asked: The request that the offer was made for.
        field: The setting that is changed.
        offered: The plan with it changed.
    """
    target = same_in_memory(offered)
    wanted = {name: getattr(offered, name) for name in (*_FIXED, field)}

    def moved(pinned: Mapping[str, Any]) -> list[str]:
        found = same_in_memory(proposal(fixed(asked, pinned)).plan)
        return [name for name in _FIXED if getattr(found, name) != getattr(target, name)]

    return fewest(wanted, {field: wanted[field]}, moved)


def fewest(
    wanted: Mapping[str, Any], pinned: Mapping[str, Any], moved: Callable[[Mapping[str, Any]], Iterable[str]]
) -> dict[str, Any]:
    """Return as few of the wanted settings as it takes for none to move.

    Args:
        wanted: The settings.
        pinned: Those that are fixed in any case.
        moved: Returns the names of those that are advised otherwise while some are fixed.
    """
    for _ in wanted:
        more = {name: wanted[name] for name in moved(pinned)}
        if not more:
            return dict(pinned)
        pinned = {**pinned, **more}
    return dict(wanted)


def fixed(asked: Request, pinned: Mapping[str, Any]) -> Request:
    """Return a request in which some more settings are fixed."""
    pins = {**asked.situation.pins, **pinned}
    number = pins.pop("num_gpus", asked.situation.num_gpus)
    return dataclasses.replace(asked, situation=dataclasses.replace(asked.situation, num_gpus=number, pins=pins))
