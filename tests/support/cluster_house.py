"""The cluster engine for tests: one client of each engine for the whole run, emptied for each test that asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import engines
import redis

from wd_trio.adapters.mongo_redis.mongo import Mongo, MongoOptions
from wd_trio.adapters.mongo_redis.pipeline import RedisLink, RedisOptions


class _Movable:
    """A clock that tells the time of whatever clock the present test has."""

    def __init__(self) -> None:
        self.of_test: Callable[[], float] = lambda: 0.0

    def __call__(self) -> float:
        return self.of_test()


_clock = _Movable()
_offset = _Movable()


def fresh_mongo(clock: Callable[[], float]) -> Mongo:
    """The run's MongoDB by this clock, its indexes made, without a document."""
    mongo = _mongo()
    _clock.of_test = clock
    engines.empty_mongo(mongo.database)
    return mongo


def fresh_redis(clock: Callable[[], float]) -> RedisLink:
    """The run's Redis without a key; its own clock runs on as far as `clock` is moved from now on."""
    link, client = _redis()
    began = clock()
    _offset.of_test = lambda: clock() - began
    engines.empty_redis(client)
    return link


@cache
def _mongo() -> Mongo:
    mongo = Mongo(engines.mongo_url(), MongoOptions(clock=_clock))
    engines.at_end(mongo.close)
    mongo.ensure()
    return mongo


@cache
def _redis() -> tuple[RedisLink, redis.Redis]:
    url = engines.redis_url()
    link, client = RedisLink(url, RedisOptions(clock_offset_s=_offset)), redis.Redis.from_url(url)
    engines.at_end(link.close)
    engines.at_end(client.close)
    return link, client
