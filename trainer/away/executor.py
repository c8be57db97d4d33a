"""What every way to another place can do: five verbs, with the run's own folder as the contract."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from specs import RunError
from trainer.runs.contract import Run
from trainer.runs.storage.mirror import EVENTS, METRICS, RECORD

PARCEL, ORDERS, STOP, KEPT_LOG = "parcel.json", "orders.json", "stop-requested", "keeper.log"
"""Files of a run's folder at another place: the run as it was sent, what is to be done, that it is to stop, and
what its keeper printed."""

NOT_FETCHED = frozenset({RECORD, METRICS, EVENTS, PARCEL, ORDERS, STOP, KEPT_LOG, "worker.log"})
"""Files of a run's folder there that are told line by line while it trains, or mean nothing here."""


SILENCE_SECONDS = 15.0
"""After so long without a word from a place that should speak every second, its connection counts as lost."""


class UnreachableError(RunError):
    """A place that cannot be reached now, such as for a lost connection; what trains there goes on."""


class FullError(UnreachableError):
    """A place whose disk is full: what trains there waits for space, and can neither tell nor be told anything."""

    def __init__(self, place: str) -> None:
        super().__init__(place, "has no space left on its disk", None, "Free some there")


@dataclass(frozen=True, slots=True)
class Told:
    """What a place told of a run at one moment."""

    changes: Sequence[Mapping[str, Any]] = ()
    """Each with a ``metric``, an ``event``, a piece of the ``log``, or the ``run`` with its ``answers``."""
    position: Mapping[str, Any] = field(default_factory=dict)
    """Where to go on, for the next call of ``follow``."""
    now: float | None = None
    """The time there, in seconds since 1970."""
    over: bool = False
    """Whether nobody works on it any more."""
    lost: UnreachableError | None = None
    """Why part of the place cannot be asked now, while what is told of the run still arrives."""
    gone: str = ""
    """Why nobody can work on it although it is not over, in a sentence; empty if that is not so."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What a place has."""

    sentence: str
    """That it can be used, for a person."""
    devices: Sequence[str]
    """Torch's names of its devices, the one that trains fastest first."""


class Executor(Protocol):
    """A way to a place where runs train.

    Each verb can be repeated without harm, and raises ``UnreachableError`` while the place cannot be reached.
    """

    def check(self) -> Ground:
        """Return what the place has.

        Raises:
            RunError: If it cannot be used, in a sentence that says why.
        """

    def send(self, run: Run, folder: Path, say: Callable[[str], None]) -> bool:
        """Bring the folder of a run there with all that the run needs; what is there already is not sent again.

        Args:
            run: The run.
            folder: Its folder here.
            say: Tells the person what takes long.

        Returns:
            Whether the place did not know the run before.

        Raises:
            RunError: If the place cannot be used, in a sentence that says why.
        """

    def start(self, run: Run) -> None:
        """Have the run trained there, unless it is being trained already; return at once."""

    def follow(self, run: Run, position: Mapping[str, Any]) -> Iterator[Told]:
        """Yield what the place tells of the run since a position, at least every few seconds, until it is over."""

    def stop(self, run: Run) -> None:
        """Have the run save and stop, as a request to stop does here; asked again, without its answers."""

    def fetch(self, run: Run, folder: Path) -> None:
        """Bring what the run has made into its folder here."""
