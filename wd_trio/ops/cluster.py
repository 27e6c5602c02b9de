"""The cluster engine: MongoDB for mail and users, Redis for sessions, limits and hints.

Calls to MongoDB run in as many threads as its pool has connections, half of them for reading; one thread for reads
and one for writes hands Redis whatever is queued as one pipeline. Whether their servers answer shows at the first
call: MongoDB's indexes are seen to before anything is served, Redis may come later.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import structlog
import trio

from wd_trio.adapters.bridge import LaneOptions
from wd_trio.adapters.mongo_redis.bus import RedisBus
from wd_trio.adapters.mongo_redis.documents import MongoDocuments
from wd_trio.adapters.mongo_redis.leases import RedisLeases
from wd_trio.adapters.mongo_redis.limits import RedisLimits
from wd_trio.adapters.mongo_redis.mongo import Mongo, MongoOptions
from wd_trio.adapters.mongo_redis.pipeline import RedisLink
from wd_trio.adapters.mongo_redis.sessions import RedisSessions
from wd_trio.adapters.mongo_redis.store import MongoStore
from wd_trio.errors import Unavailable
from wd_trio.ops.engine import Engine, in_thread
from wd_trio.ports.documents import Collection
from wd_trio.ports.gateway import reads

log = structlog.get_logger()

READERS: Final = 16
WRITERS: Final = 16
UPKEEP_CONNECTIONS: Final = 1
LEADER: Final = "janitor"
LEAD_S: Final = 30.0
CLOSE_S: Final = 0.25


@asynccontextmanager
async def open_cluster(
    store_url: str, redis_url: str, *, collections: Sequence[Collection], owner: str
) -> AsyncIterator[Engine]:
    """The engine on these servers, its indexes made, those of `collections` too; `owner` is the name under which
    this process leads, if it does.

    Invalid for URLs that cannot be, and for a MongoDB that can do no transactions; Unavailable when MongoDB does not
    answer.
    """
    async with AsyncExitStack() as stack:
        link = RedisLink(redis_url)
        stack.push_async_callback(_close, link.close)
        mongo = Mongo(store_url, MongoOptions(pool=READERS + WRITERS + UPKEEP_CONNECTIONS))
        stack.push_async_callback(_close, mongo.close)
        store, documents, leases = MongoStore(mongo), MongoDocuments(mongo), RedisLeases(link)
        stack.push_async_callback(_close, partial(_resign, leases, owner))
        await in_thread(mongo.ensure)
        await in_thread(partial(documents.ensure, collections))
        yield Engine(
            store=store,
            documents=documents,
            limits=RedisLimits(link),
            sessions=RedisSessions(link),
            lanes=(
                LaneOptions(name="store.write", threads=WRITERS),
                LaneOptions(name="store.read", threads=READERS, abandon=True),
                LaneOptions(name="state.write", group=link.run_group),
                LaneOptions(name="state.read", group=link.run_group, abandon=True),
            ),
            lead=_leader(leases, owner),
            pings={"mongodb": store.ping, "redis": leases.ping},
            open_bus=partial(RedisBus, link),
        )


def _leader(leases: RedisLeases, owner: str) -> Callable[[], bool]:
    @reads("state")  # who leaves need not wait for it: a lead ends by itself
    def lead() -> bool:
        return leases.try_lead(LEADER, owner, ttl_s=LEAD_S)

    return lead


def _resign(leases: RedisLeases, owner: str) -> None:
    """Let the next one lead at once."""
    try:
        leases.resign(LEADER, owner)
    except Unavailable as error:
        log.debug("the lead ends by itself", error=str(error))


async def _close(close: Callable[[], None]) -> None:
    """Close bounded: a server that hangs cannot hold the exit."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S) as scope:
        await trio.to_thread.run_sync(close, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True)
    if scope.cancelled_caught:
        log.warning("an engine hangs while it is closed")
