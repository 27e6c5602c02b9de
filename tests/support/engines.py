"""The MongoDB and the Redis that a test run uses: one of each, started when the first test asks.

`WD_TRIO_TEST_MONGO_URL` and `WD_TRIO_TEST_REDIS_URL` name servers that exist already; theirs are the databases
`wd_test…` and Redis' numbered ones, which are emptied. Each process of a parallel run has databases of its own.
A machine that has the wheels must be able to run the cluster engine: there, its absence fails the tests.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pymongo
import pytest
import redis
from engine_processes import Absent, Engine, start_mongod, start_redis

MONGO_VARIABLE: Final = "WD_TRIO_TEST_MONGO_URL"
REDIS_VARIABLE: Final = "WD_TRIO_TEST_REDIS_URL"
_REDIS_DATABASES: Final = 16  # what a redis-server has unless told otherwise

_folders: list[Path] = []
_running: dict[str, Engine] = {}
_closers: list[Callable[[], object]] = []


def mongo_url() -> str:
    """The server of this run, in a database of this process; a replica set, so that transactions work."""
    given = os.environ.get(MONGO_VARIABLE)
    url = given or _engine("mongod", start_mongod).url
    server, _, rest = url.partition("://")[2].partition("/")
    _, _, options = rest.partition("?")
    return f"{url.partition('://')[0]}://{server}/{database_name()}?{options}"


def redis_url() -> str:
    """The server of this run, in a numbered database of this process."""
    given = os.environ.get(REDIS_VARIABLE)
    if given is None:
        return _engine("redis-server", start_redis).url
    return f"{given.rstrip('/')}/{_number() % _REDIS_DATABASES}"


def database_name() -> str:
    return f"wd_test_{_number()}"


def _number() -> int:
    """Of this process among those of a parallel run."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def empty_mongo(database: pymongo.database.Database[Any]) -> None:
    """Remove all documents of a database; its collections and indexes stay, which makes this quick."""
    for name in database.list_collection_names():
        if not name.startswith("system."):
            database[name].delete_many({})


def empty_redis(client: redis.Redis) -> None:
    """Remove all keys of the numbered database that `client` uses."""
    client.flushdb()


def new_folder() -> Path:
    """A folder that `stop_engines` removes."""
    folder = Path(tempfile.mkdtemp(prefix="wd-trio-engine-"))
    _folders.append(folder)
    return folder


def at_end(close: Callable[[], object]) -> None:
    """Have `close` called at the end of the run, before the engines are stopped."""
    _closers.append(close)


def stop_engines() -> None:
    """End what was started; for the end of the run."""
    while _closers:
        _closers.pop()()
    for engine in _running.values():
        engine.kill()
    _running.clear()
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)


def or_no_engine(start: Callable[[], Engine]) -> Engine:
    """What `start` starts; where the engine is not to be had, the test fails on Linux x86-64, else it is skipped."""
    try:
        return start()
    except Absent as error:
        if sys.platform == "linux" and platform.machine() == "x86_64":
            pytest.fail(f"the cluster engine must be tested here: {error}")
        pytest.skip(f"the cluster engine is not to be had on this platform: {error}")


def _engine(name: str, start: Callable[[Path], Engine]) -> Engine:
    if name not in _running:
        _running[name] = or_no_engine(lambda: start(new_folder()))
    return _running[name]
