"""What a run at another place is told about in words: where that is, and whether it can be reached now. Pure."""

import time

from trainer.runs import places
from trainer.runs.contract import TAKEN, WITHOUT_SPACE, Run


def where(run: Run) -> str:
    """Return where a run trains, such as ``on ssh://host``; empty for this machine."""
    return f"on {places.where(run.place.away).short}" if run.place.away else ""


def connection(run: Run) -> str:
    """Return what a person should know of the connection to where a run trains; empty while there is nothing to say."""
    if run.connection_lost_at is None:
        return ""
    since = time.strftime("%H:%M", time.localtime(run.connection_lost_at))
    if run.details.get(WITHOUT_SPACE):
        return f"No space on the disk there since {since}: the run waits until you free some."
    goes_on = "the run goes on there" if TAKEN in run.details else "the run is sent on as soon as it is back"
    return f"Connection lost since {since}, {goes_on}."
