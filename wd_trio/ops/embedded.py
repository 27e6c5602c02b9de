"""The embedded engine: one SQLite database for mail and users, a volatile one beside it for sessions and limits.

Writers have one thread each, which commits all that is queued in one transaction; readers may be abandoned by a
cancelled caller. The bus is the supervisor's hub; a process without a place there (an errand of the command line)
speaks to nobody.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import structlog
import trio

from wd_trio.adapters.bridge import LaneOptions
from wd_trio.adapters.sqlite.bus import HubBus, LocalBus
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.documents import SqliteDocuments
from wd_trio.adapters.sqlite.limits import SqliteLimits, open_state
from wd_trio.adapters.sqlite.sessions import SqliteSessions
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.addresses import sqlite_path
from wd_trio.ops.engine import UPKEEP, Engine, in_thread
from wd_trio.ports.gateway import in_lane

log = structlog.get_logger()

READERS: Final = 4
CLOSE_S: Final = 1.0


@asynccontextmanager
async def open_embedded(url: str, *, hub: socket.socket | None) -> AsyncIterator[Engine]:
    """The engine on the file that `url` names; closed bounded, so that a disk that hangs cannot hold the exit. `hub`
    is this process's place at the supervisor's hub, and the bus's to close.

    Invalid when the store cannot be this version's; Unavailable when it cannot be opened now.
    """
    path = sqlite_path(url)
    async with AsyncExitStack() as stack:
        database = await in_thread(partial(SqliteDatabase, path))
        stack.push_async_callback(_close, database)
        state = await in_thread(partial(open_state, path))
        stack.push_async_callback(_close, state)
        store = SqliteStore(database)
        yield Engine(
            store=store,
            documents=SqliteDocuments(database),
            limits=SqliteLimits(state),
            sessions=SqliteSessions(state),
            lanes=(
                LaneOptions(name="store.write", group=database.group),
                LaneOptions(name="store.read", threads=READERS, abandon=True, brief=True),
                LaneOptions(name="state.write", group=state.group),
                LaneOptions(name="state.read", abandon=True),
            ),
            lead=_leader(database),
            pings={"store": store.ping},
            open_bus=lambda _: HubBus(hub) if hub is not None else LocalBus(),
        )


def _leader(database: SqliteDatabase) -> Callable[[], bool]:
    @in_lane(UPKEEP)
    def lead() -> bool:
        if not database.try_lead():
            return False
        database.checkpoint()
        return True

    return lead


def clear_state(url: str, server: str) -> None:
    """Forget all claims and strikes, and this server's sessions: for a server that starts, since those of killed
    processes would stay. Blocking.

    Invalid or Unavailable when the volatile database cannot be opened.
    """
    state = open_state(sqlite_path(url))
    try:
        SqliteLimits(state).clear()
        SqliteSessions(state).end_owner(server)
    finally:
        state.close()


async def _close(database: SqliteDatabase) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S) as scope:
        await trio.to_thread.run_sync(database.close, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True)
    if scope.cancelled_caught:
        log.warning("the database hangs", path=str(database.path))
