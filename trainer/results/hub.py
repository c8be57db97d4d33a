"""Uploads a run's result to the Hugging Face Hub. The token is used for the requests and never stored."""

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from specs import RunError
from trainer.runs.contract import Run
from trainer.runs.export import package
from trainer.runs.store import Store

_REFUSALS = {
    401: ("token", "is not accepted by the Hub", "Create one with write access at huggingface.co/settings/tokens"),
    403: (
        "token",
        "has no write access to this repository",
        "Choose a repository of yours, or a token with write access",
    ),
}


def push(store: Store, run: Run, repo_id: str, token: str, *, private: bool = True) -> str:
    """Upload adapter, plan, metrics and model card as one commit, and return the repository's address.

    Args:
        store: Where the run is kept.
        run: Whose result is uploaded.
        repo_id: Owner and name; the repository is created if it does not exist.
        token: A token of the Hub with write access.
        private: Whether a new repository is private.

    Raises:
        RunError: If there is no result, the name or token is invalid, or the Hub refuses or cannot be reached.
    """
    _check(repo_id, token)
    operations = [CommitOperationAdd(name, content) for name, content in package(store, run).items()]
    api = HfApi(token=token)
    try:
        address = str(api.create_repo(repo_id, private=private, exist_ok=True))
        api.create_commit(repo_id, operations, commit_message=f"Add the result of run {run.id}")
    except HfHubHTTPError as error:
        # The Hub's own message may repeat the request; its status code says enough.
        status = error.response.status_code
        subject, rule, way_out = _REFUSALS.get(status, ("Hub", f"refused the upload with status {status}", "Try later"))
        raise RunError(subject, rule, repo_id, way_out) from None
    except (HTTPError, OSError) as error:
        way_out = "Check the connection, or download the zip instead"
        raise RunError("Hub", "cannot be reached", type(error).__name__, way_out) from None
    store.add_event(run.id, "hub", f"Uploaded to {address}.")
    return address


def _check(repo_id: str, token: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        repo_id, wrong = "", repo_id
    else:
        wrong = repo_id
    if "/" not in repo_id:
        raise RunError(
            "repository", "must be owner/name, in letters that the Hub allows", wrong, "Write it like you/my-adapter"
        )
    if not token.strip() or not token.isascii() or not token.isprintable():
        way_out = "Create one with write access at huggingface.co/settings/tokens"
        raise RunError("token", "is needed to write to the Hub", None, way_out)
