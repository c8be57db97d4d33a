"""What every test shares: patience, a cache of its own, the order of files, and a short garbage collection."""

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

from specs import paths

# A busy machine makes inputs slowly and runs slowly; neither says anything about the code.
settings.register_profile("lorafit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lorafit")

os.environ.setdefault("LORAFIT_CALIBRATE", "off")  # what a page says must not depend on who tests it where

CACHE = paths.REPO / ".pytest_cache" / "lorafit"
"""The cache of the tests: what a person has estimated or measured must not decide what they find."""


def use_own_cache() -> None:
    """Keep what tests cache apart from what a person has; the models that setup has fetched are read where they lie."""
    if paths.cache() == CACHE:
        return  # a process that the tests have started
    models = paths.demo_model().parent
    own = CACHE / models.name
    CACHE.mkdir(parents=True, exist_ok=True)
    if models.is_dir() and models.resolve() != own.resolve():
        own.unlink(missing_ok=True)
        own.symlink_to(models, target_is_directory=True)
    os.environ["LORAFIT_CACHE"] = str(CACHE)


use_own_cache()

LONGEST = ("browser/", "trainer/worker/", "trainer/model/", "estimator/tracer/", "estimator/", "advisor/")
"""Folders whose files take longest, first: the last files to be given out then are short, and no worker waits long."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the files that take longest to the front; the order within a file stays."""
    items.sort(key=lambda item: next((n for n, folder in enumerate(LONGEST) if folder in item.nodeid), len(LONGEST)))


def pytest_collection_finish() -> None:
    """Take what is imported by now out of every later collection.

    accelerate collects garbage at the begin of every training, which takes longer than the training itself where it
    has to look through a million objects of torch and transformers.
    """
    gc.collect()
    gc.freeze()
