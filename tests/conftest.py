"""What every test shares: patience, the order in which files are given out, and a short garbage collection."""

import gc

import pytest
from hypothesis import HealthCheck, settings

# A busy machine makes inputs slowly and runs slowly; neither says anything about the code.
settings.register_profile("lorafit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lorafit")

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
