"""Other places where runs train: those that a person has named, what they have, and how one can be reached now."""

from specs import GpuSpec, RunError, paths
from trainer.away.executor import Ground
from trainer.away.executors import executor_of
from trainer.runs import places
from ui.runs.facts import run_data


def names() -> list[str]:
    """Return what the person calls the places that they named.

    Raises:
        RunError: If the file that holds them cannot be read.
    """
    return [*places.named(paths.runs())]


def ground(place: str) -> Ground:
    """Return what a place has.

    Raises:
        RunError: If there is no such place, or it cannot be used.
    """
    return executor_of(places.found(run_data.store().folder, place)).check()


def device(place: str, gpu: GpuSpec, number: int) -> str:
    """Return the device of a run that trains at a place on cards that are chosen here.

    Raises:
        RunError: If there is no such place, it cannot be used, or has too few cards.
    """
    found = places.found(run_data.store().folder, place)
    there = ground(place).devices
    devices = ["cpu"] if gpu.is_cpu else [one for one in there if one != "cpu"]
    if not gpu.is_cpu and len(devices) < number and not places.queues_itself(f"{places.AT}{found.url}"):
        rule = (
            f"has {len(devices) or 'no'} NVIDIA card{'s' if len(devices) != 1 else ''}, and the plan is for {number:,}"
        )
        raise RunError(found.short, rule, None, "Choose another place, or plan for a CPU")
    return f"{devices[0]}{places.AT}{found.url}"
