"""Users and log-ins over the real engine and the real gateway, with an argon2 that is nearly free."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from wd_trio.adapters.bridge import Gateway, LaneOptions
from wd_trio.adapters.sqlite.connection import SqliteOptions
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.documents import SqliteDocuments
from wd_trio.adapters.sqlite.limits import SqliteLimits
from wd_trio.adapters.sqlite.schema import STATE_SCHEMA
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.secret import Secret
from wd_trio.service.auth import Auth, AuthOptions, Login
from wd_trio.service.credentials import Hasher
from wd_trio.service.users import UserOptions, Users

TIME_COST = 1
MEMORY_KIB = 8


@dataclass
class Clock:
    """The wall clock of the engine that counts strikes."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Accounts:
    gateway: Gateway
    documents: SqliteDocuments
    store: SqliteStore
    limits: SqliteLimits
    hasher: Hasher
    users: Users
    auth: Auth
    clock: Clock
    state: SqliteDatabase

    def crossings(self, lane: str) -> int:
        """Calls that a lane has brought back."""
        return next(
            sum(each.results.values()) for each in self.gateway.statistics().lanes if each.name == lane
        )

    async def log_in(
        self, username: str, password: str, ip: str = "192.0.2.1", *, auth: Auth | None = None
    ) -> Login:
        return await (auth or self.auth).login(
            username=username, password=Secret(password), peer_ip=ip, protocol="imap"
        )

    def other_auth(self, options: AuthOptions, hasher: Hasher | None = None) -> Auth:
        """Another worker's Auth over the same engine."""
        return Auth(
            gateway=self.gateway,
            users=self.users,
            limits=self.limits,
            hasher=hasher or self.hasher,
            options=options,
        )


@asynccontextmanager
async def open_accounts(
    folder: Path, *, auth: AuthOptions | None = None, users: UserOptions | None = None
) -> AsyncIterator[Accounts]:
    clock = Clock()
    database = SqliteDatabase(folder / "wd.db")
    volatile = SqliteOptions(durable=False, clock=clock)
    state = SqliteDatabase(folder / "wd.db.state", volatile, tables=STATE_SCHEMA)
    documents, store, limits = SqliteDocuments(database), SqliteStore(database), SqliteLimits(state)
    lanes = [
        LaneOptions(name="store.read", threads=2, abandon=True),
        LaneOptions(name="store.write", group=database.group),
        LaneOptions(name="state.read", threads=1, abandon=True),
        LaneOptions(name="state.write", group=state.group),
        LaneOptions(name="hash", threads=2),
    ]
    hasher = Hasher(time_cost=TIME_COST, memory_kib=MEMORY_KIB)
    try:
        async with Gateway(lanes) as gateway:
            service = Users(gateway=gateway, documents=documents, store=store, hasher=hasher, options=users)
            guard = Auth(gateway=gateway, users=service, limits=limits, hasher=hasher, options=auth)
            yield Accounts(gateway, documents, store, limits, hasher, service, guard, clock, state)
    finally:
        database.close()
        state.close()
