"""Runs as jobs of a Ray cluster, through its Jobs API."""

import importlib
import importlib.util
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from specs import RunError
from specs.paths import REPO
from trainer.away.executor import SILENCE_SECONDS, UnreachableError
from trainer.away.shared import SharedFolder
from trainer.runs.contract import WISH, Run
from trainer.runs.places import Where

_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that Ray's client takes in place of the address that it is given."""
_ENDED = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})
"""States in which no more comes of a job: ``ray.job_submission.JobStatus.is_terminal``, Ray 2.60."""
_UNKNOWN = "UNKNOWN, as the cluster was started anew"
_NOT_FOUND = "status code 404"
"""What Ray's client says of a job that there is not: ``SubmissionClient._raise_error``, Ray 2.60."""
_SILENT_SECONDS = 60.0
"""How long the files of a run whose job ended must not change before it counts as over: a worker that outlived the
cluster goes on writing. A choice, above the length of most steps; one that is slower is taken over by the next job."""


class Ray:
    """The jobs of one cluster. A worker outlives the head node, and its files tell how it goes."""

    settling_seconds = _SILENT_SECONDS

    def __init__(self, place: Where) -> None:
        if importlib.util.find_spec("ray") is None:
            raise RunError(place.short, "needs the package ray", None, "Run .venv/bin/pip install ray")
        if name := next((name for name in _OVERRIDES if os.environ.get(name)), ""):
            rule = f"cannot be asked while the variable {name} is set, which Ray takes instead"
            raise RunError(place.short, rule, os.environ[name], "Unset it, and start LoRAFit again")
        self._place = place
        self._known: Any = None

    def check(self) -> str:
        """Return that jobs can be submitted, and which version of Ray takes them."""
        return f"Ray {self._asked(lambda client: client.get_version())} takes jobs"

    def submit(self, command: Sequence[str], folder: Path, run: Run) -> str:  # noqa: ARG002 - Ray keeps its own notes
        """Submit a job with as many cards as the plan has; one for the same wish is there already if asked again."""
        number = f"lorafit-{run.id}-{run.details[WISH]}"
        cards = run.plan.num_gpus if run.place.card.startswith("cuda") else 0
        # Ray gives the words to a shell.
        words = shlex.join(["sh", "-c", 'cd -- "$1" && shift && exec "$@"', "lorafit", str(REPO), *command])
        if self._status(number) == _UNKNOWN:
            self._asked(
                lambda client: client.submit_job(
                    entrypoint=words, submission_id=number, entrypoint_num_cpus=1, entrypoint_num_gpus=cards
                )
            )
        return number

    def ended(self, job: str, folder: Path) -> str:  # noqa: ARG002 - as above
        """Return the state in which a job ended."""
        if not job:
            return ""
        state = self._status(job)
        return state if state in {*_ENDED, _UNKNOWN} else ""

    def cancel(self, job: str, folder: Path) -> None:  # noqa: ARG002 - as above
        """Take back a job that waits."""
        if job and self._status(job) == "PENDING":
            self._asked(lambda client: client.stop_job(job))

    def _status(self, job: str) -> str:
        """Return a job's state in Ray's words, or that Ray knows no such job."""
        try:
            return str(self._asked(lambda client: client.get_job_status(job)).value)
        except RunError as error:
            if isinstance(error, UnreachableError) or _NOT_FOUND not in str(error.__cause__):
                raise
            return _UNKNOWN

    def _asked(self, question: Callable[[Any], Any]) -> Any:
        """Return what the cluster answers.

        Raises:
            UnreachableError: If it does not.
            RunError: If it refuses.
        """
        try:
            if self._known is None:
                self._known = _client(f"http://{self._place.host}:{self._place.port}")
            return question(self._known)
        except OSError as error:  # of sockets, and of requests
            rule, way_out = "does not answer", "Check that its head node runs, and the port of its dashboard"
            raise UnreachableError(self._place.short, rule, str(error) or None, way_out) from error
        except RuntimeError as error:
            raise RunError(self._place.short, "did not do what was asked", str(error)) from error


def _client(address: str) -> Any:
    """Return Ray's client of a cluster, which waits for no answer longer than ``SILENCE_SECONDS``."""
    plain: Any = importlib.import_module("ray.job_submission").JobSubmissionClient

    class Client(plain):
        """Ray's, whose own requests wait for ever: ray/dashboard/modules/dashboard_sdk.py, Ray 2.60."""

        def _do_request(self, method: str, endpoint: str, **more: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": SILENCE_SECONDS, **more})

    return Client(address)


def executor(place: Where) -> SharedFolder:
    """Return the executor of a place such as ``ray://host:8265/shared/folder``."""
    return SharedFolder(place, Ray(place))
