"""The one place that asks the Hugging Face Hub: for a ``config.json`` that somebody named, a tokenizer on demand."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from catalog import local, tokenizers
from specs import MIB, CatalogError
from specs.doors import faults
from specs.embeddings import with_embedding
from specs.paths import cache

TIMEOUT_SECONDS = 5.0
"""A page waits for this answer; a config.json is a few KB."""

LARGEST_TOKENIZER_BYTES = 64 * MIB
"""The longest published tokenizer.json, Gemma 3's with 262,144 words, has 33 MB."""


def config(name: str, *, nearest: str = "") -> Mapping[str, Any]:
    """Return the ``config.json`` of a Hub model; once fetched, it is found without the network.

    Args:
        name: The Hub id, owner and repository.
        nearest: What to add to the message when there is no such model.

    Raises:
        CatalogError: If the Hub cannot be reached, has no such model, or gives no access to its file.
    """
    unreachable = f"is not in the catalog, and the Hub cannot be reached{nearest}"
    with _told(name, f"is neither in the catalog nor on the Hub{nearest}", unreachable, _LOCAL):
        try:
            found = local.config_of(_fetched(name, "config.json"))
        except RemoteEntryNotFoundError as error:
            raise _without_config(name) from error
        found = found if found.get("quantization_config") else local.with_quantization(found, _modelopt(name))
        return with_embedding(found, lambda file: _beside(name, file))


def require_access(name: str) -> None:
    """Refuse a model that the Hub does not show: unknown, gated, or not to be reached.

    Raises:
        CatalogError: If it is such a model.
    """
    with _told(name, "is not on the Hub", "is not on this machine, and the Hub cannot be reached", "Name its folder"):
        try:
            get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=TIMEOUT_SECONDS)
        except RemoteEntryNotFoundError as error:
            raise _without_config(name) from error


def _modelopt(name: str) -> Mapping[str, Any]:
    """Return ModelOpt's file about the quantization of a Hub model; empty where there is none."""
    return _beside(name, local.QUANTIZATION_FILE) or {}


def _beside(name: str, file: str) -> Any:
    """Return what another file of a Hub model holds as JSON; None where there is none."""
    if _known_to_lack(name, file):
        return None
    try:
        return local.json_of(_fetched(name, file))
    except RemoteEntryNotFoundError:
        return None


def _known_to_lack(name: str, file: str) -> bool:
    """Return whether the Hub has said before that a model has no such file, which huggingface_hub then remembers."""
    known = try_to_load_from_cache(name, file, cache_dir=cache() / "hub")
    return known is not None and not isinstance(known, str)


def fetch_tokenizer(name: str) -> Path:
    """Fetch the tokenizer files of a Hub model and return their folder; afterwards ``tokenizers.folder`` finds it.

    Raises:
        CatalogError: If the Hub cannot be reached, does not show the files, or they are larger than any tokenizer.
    """
    with _told(name, "is not on the Hub", "cannot be fetched: the Hub cannot be reached", "Try again when online"):
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
        try:
            found = _downloaded(name, tokenizers.FILES[0])
        except RemoteEntryNotFoundError as error:
            rule = f"has no {tokenizers.FILES[0]} on the Hub"
            raise CatalogError(name, rule, None, "Name the folder of a model that has one") from error
        for file in tokenizers.FILES[1:]:
            with suppress(RemoteEntryNotFoundError):
                _downloaded(name, file)
    return found.parent


def _without_config(name: str) -> CatalogError:
    return CatalogError(name, "has no config.json on the Hub", None, "Choose a transformers model")


@contextmanager
def _told(name: str, unknown: str, unreachable: str, way_out: str) -> Iterator[None]:
    """Say in one sentence why the Hub does not give what is asked for."""
    try:
        yield
    except GatedRepoError as error:
        raise CatalogError(name, "is gated on the Hub", None, "Accept its terms there and log in with hf") from error
    except RepositoryNotFoundError as error:
        raise CatalogError(name, unknown, None, _CHECK) from error
    except (HTTPError, OSError) as error:
        if faults.is_of_disk(error):
            rule = "cannot be kept: the folder for what is fetched cannot be written"
            raise CatalogError(name, rule, str(cache()), "Free some space, or set LORAFIT_CACHE") from error
        raise CatalogError(name, unreachable, None, way_out) from error


def _downloaded(name: str, file: str) -> Path:
    """Return a file of a Hub model, fetched after a look at its size."""
    size = get_hf_file_metadata(hf_hub_url(name, file), timeout=TIMEOUT_SECONDS).size or 0
    if size > LARGEST_TOKENIZER_BYTES:
        limit = f"may have at most {LARGEST_TOKENIZER_BYTES:,} bytes"
        raise CatalogError(f"{name}: {file}", limit, size, "Name a folder on this machine")
    return Path(hf_hub_download(name, file, cache_dir=cache() / "hub", etag_timeout=TIMEOUT_SECONDS))


def _fetched(name: str, file: str) -> Path:
    """Return a file of a Hub model, from this machine if it was fetched before."""
    ours = cache() / "hub"
    for folder in (ours, Path(constants.HF_HUB_CACHE)):
        with suppress(LocalEntryNotFoundError):
            return Path(hf_hub_download(name, file, cache_dir=folder, local_files_only=True))
    # hf_hub_download retries a failed request for over 20 seconds; a single one shows at once that we are offline.
    get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
    return Path(hf_hub_download(name, file, cache_dir=ours, etag_timeout=TIMEOUT_SECONDS))


_CHECK = "Check the spelling, or give the path of a config.json"
_LOCAL = "Give the path of a config.json or a size such as 7B"
