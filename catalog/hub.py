"""The one place that asks the Hugging Face Hub, and only for a ``config.json`` that somebody named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_session, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from catalog import local
from specs import CatalogError
from specs.paths import cache

TIMEOUT_SECONDS = 5.0
"""A page waits for this answer; a config.json is a few KB."""


def config(name: str, *, nearest: str = "") -> Mapping[str, Any]:
    """Return the ``config.json`` of a Hub model; once fetched, it is found without the network.

    Args:
        name: The Hub id, owner and repository.
        nearest: What to add to the message when there is no such model.

    Raises:
        CatalogError: If the Hub cannot be reached, has no such model, or gives no access to its file.
    """
    try:
        return local.config_of(_fetched(name))
    except GatedRepoError as error:
        raise CatalogError(name, "is gated on the Hub", None, "Accept its terms there and log in with hf") from error
    except RepositoryNotFoundError as error:
        raise CatalogError(name, f"is neither in the catalog nor on the Hub{nearest}", None, _CHECK) from error
    except RemoteEntryNotFoundError as error:
        raise CatalogError(name, "has no config.json on the Hub", None, "Choose a transformers model") from error
    except (HTTPError, OSError) as error:
        raise CatalogError(
            name, f"is not in the catalog, and the Hub cannot be reached{nearest}", None, _LOCAL
        ) from error


def _fetched(name: str) -> Path:
    folder = cache() / "hub"
    try:
        return Path(hf_hub_download(name, "config.json", cache_dir=folder, local_files_only=True))
    except LocalEntryNotFoundError:
        # hf_hub_download retries a failed request for over 20 seconds; a single one shows at once that we are offline.
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
        return Path(hf_hub_download(name, "config.json", cache_dir=folder, etag_timeout=TIMEOUT_SECONDS))


_CHECK = "Check the spelling, or give the path of a config.json"
_LOCAL = "Give the path of a config.json or a size such as 7B"
