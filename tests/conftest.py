"""What every folder of tests shares: the cluster's engines, started for the first test that asks, and settings."""

from __future__ import annotations

from collections.abc import Iterator

import engines
import pytest
from hypothesis import settings

# How long an example takes says nothing: engines are real, and machines are shared.
settings.register_profile("wd-trio", deadline=None)
settings.load_profile("wd-trio")


@pytest.fixture(scope="session", autouse=True)
def _engines_end() -> Iterator[None]:
    yield
    engines.stop_engines()


@pytest.fixture(scope="session")
def mongo_url() -> str:
    """A MongoDB replica set, and in it a database of this process of the run."""
    return engines.mongo_url()


@pytest.fixture(scope="session")
def redis_url() -> str:
    """A Redis, and in it a numbered database of this process of the run."""
    return engines.redis_url()
