"""Follows a run that trains elsewhere, whatever becomes of the connection, and brings home what it made."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from specs import RunError
from specs.errors import clipped, ended
from trainer.away.executor import Executor, FullError, Told, UnreachableError
from trainer.runs.contract import LOST_CONNECTION, TAKEN, WISH, WITHOUT_SPACE, Phase, Run, State
from trainer.runs.places import where
from trainer.runs.storage.afar import HEARD
from trainer.runs.store import Store

_LONGEST_PAUSE_SECONDS = 15.0
"""How long to wait at most before the next attempt to reach a place."""
_CLOCKS_DIFFER_SECONDS = 60.0
"""Clocks that differ by less count as the same: an answer takes some time to arrive."""
_ENDS: Mapping[str, State] = {
    State.FINISHED: State.FINISHED,
    State.STOPPED: State.STOPPED,
    State.FAILED: State.FAILED,
    # Here it is known what became of it: its follower was not lost.
    State.LOST: State.FAILED,
}


class Follower:
    """One process's work on a run that trains elsewhere. Every write carries the attempt."""

    def __init__(self, store: Store, run: Run, executor: Executor) -> None:
        self._store, self._run, self._executor = store, run, executor
        self._folder = store.run_folder(run.id)
        self._place = where(run.place.away).short
        self._position: Mapping[str, Any] = {}
        self._end: Mapping[str, Any] = {}
        self._stops_asked = 0
        self._was_reached = False

    def follow(self, *, again: bool) -> None:
        """Take the run to its place unless it is there, follow it to its end, and fetch it.

        Args:
            again: Whether the follower before was killed: then nobody wishes anything new.

        Raises:
            LorafitError: If it cannot be sent or started.
            AttemptOverError: If somebody else follows it by now.
        """
        if not (again and WISH in self._run.details):
            self._details(**{WISH: self._run.attempt})
        self._run = self._store.run(self._run.id)
        if self._begun(known_there=again and TAKEN in self._run.details):
            self._patiently(self._listen)
            self._store.set_phase(self._run.id, Phase.SAVING, attempt=self._run.attempt)
            self._patiently(self._fetch)
            self._finish()

    def _begun(self, *, known_there: bool) -> bool:
        """Begin, patiently once the place was reached; one that never was, or has no space, is told at once."""
        try:
            return self._begin()
        except FullError:
            raise
        except UnreachableError as error:
            if not known_there and not self._was_reached:
                raise
            self._lost(error)
        return self._patiently(self._begin)

    def _begin(self) -> bool:
        """Send the run and have it started; return whether nobody asked it to stop before."""
        if self._executor.send(self._run, self._folder, self._answered):
            self._details(**{HEARD: 0})
        if self._stop_wanted() and TAKEN not in self._run.details:
            self._enter(State.STOPPED)
            return False
        self._executor.start(self._run)
        self._say(f"Trains on {self._place}.")
        return True

    def _listen(self) -> bool:
        """Put what is told into the store until the run is over there."""
        for told in self._executor.follow(self._run, self._position):
            if told.lost is None:
                self._reached()
            else:
                self._lost(told.lost)
            self._put(told)
            if told.gone and self._stop_wanted():
                self._end = {"state": State.STOPPED}  # it was taken back before it began
                return True
            if told.gone:
                raise RunError(self._place, "does not train the run", told.gone, "Resume it to try again")
            if told.over:
                return True
            self._pass_stop_on()
        raise UnreachableError(self._place, "stopped telling how the run goes")

    def _fetch(self) -> bool:
        self._executor.fetch(self._run, self._folder)
        return True

    def _put(self, told: Told) -> None:
        ahead = 0.0 if told.now is None else told.now - time.time()
        ahead = ahead if abs(ahead) > _CLOCKS_DIFFER_SECONDS else 0.0
        for change in told.changes:
            if "log" in change:
                sys.stdout.write(change["log"])  # which the launcher leads into the run's log
            if "run" in change:
                self._end = change["run"]
        changes = [change for change in told.changes if "log" not in change]
        if changes:
            self._store.put_told(self._run.id, changes, ahead=ahead, attempt=self._run.attempt)
        self._position = told.position

    def _finish(self) -> None:
        """Leave the run in the state in which it ended there."""
        state = _ENDS.get(self._end.get("state", ""), State.FAILED)
        error = self._end.get("error")
        # Its disk, its memory and its paths are not those of this machine.
        told = clipped(f"{self._place}: {error}") if error else None
        self._enter(state, error=told, error_kind=self._end.get("error_kind"))

    def _pass_stop_on(self) -> None:
        """Ask the place to stop the run, once for each time that somebody asked here."""
        run_id = self._run.id
        wanted = int(self._store.stop_requested(run_id)) + int(self._store.hurry_requested(run_id))
        if wanted > self._stops_asked:
            self._executor.stop(self._run)
            self._stops_asked = wanted

    def _patiently(self, action: Callable[[], bool]) -> bool:
        """Return what an action returns, tried again until the place can be reached."""
        pause = 1.0
        while True:
            try:
                done = action()
            except UnreachableError as error:
                if self._lost(error):
                    pause = 1.0
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                self._reached()
                return done

    def _lost(self, error: UnreachableError) -> bool:
        """Note since when the place cannot be reached; return whether it could until now."""
        if self._store.run(self._run.id).connection_lost_at is not None:
            return False
        sys.stderr.write(f"The connection is lost: {ended(str(error))}\n")
        reason = ended(str(error).removeprefix(f"{error.subject}: "))
        full = isinstance(error, FullError)
        told = f"{self._place} {reason}" if full else f"Connection to {self._place} lost: {reason}"
        self._say(told, kind="warning")
        self._details(**{LOST_CONNECTION: time.time(), WITHOUT_SPACE: full})
        return True

    def _reached(self) -> None:
        run = self._store.run(self._run.id)
        if run.connection_lost_at is not None:
            self._details(**{LOST_CONNECTION: None})
            full = run.details.get(WITHOUT_SPACE)
            self._say(f"{self._place} has space again." if full else f"Connected to {self._place} again.")

    def _answered(self, text: str) -> None:
        """Say what is done at the place, which has just answered."""
        self._reached()
        self._say(text)

    def _stop_wanted(self) -> bool:
        return self._store.stop_requested(self._run.id)

    def _say(self, text: str, kind: str = "place") -> None:
        self._was_reached = True
        self._store.add_event(self._run.id, kind, text, attempt=self._run.attempt)

    def _details(self, **values: Any) -> None:
        self._store.add_details(self._run.id, attempt=self._run.attempt, **values)

    def _enter(self, state: State, **fields: Any) -> None:
        more = {"phase": Phase.DONE, "finished_at": time.time(), **fields}
        self._store.enter(self._run.id, state, attempt=self._run.attempt, **more)
