"""The composition root: the one file that names concrete adapters and turns the configuration into options.

`open_services` opens the engine, then the gateway's lanes, then composes the services over them; it closes in the
opposite order, bounded, so that an engine that hangs cannot hold the exit. Workers use it, and so does each errand
of the command line, with a bus that goes nowhere.

Lanes: writers have one thread each, which commits all that is queued in one transaction; readers may be abandoned by
a cancelled caller. Hashing passwords gets one thread a core; "work" is computing and scratch files; "upkeep" is the
janitor's, so that a slow checkpoint stands in nobody's way.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, TypeVar

import structlog
import trio

from wd_trio import __version__
from wd_trio.adapters.bridge import Gateway, LaneOptions
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.documents import SqliteDocuments
from wd_trio.adapters.sqlite.limits import SqliteLimits, open_state
from wd_trio.adapters.sqlite.sessions import SqliteSessions
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.addresses import sqlite_path
from wd_trio.api.services import ApiOptions, ApiServices
from wd_trio.config import Config
from wd_trio.ports.bus import Bus
from wd_trio.ports.gateway import HASH, WORK, in_lane
from wd_trio.servers.imap.options import ImapOptions, ImapServices
from wd_trio.servers.imap.serve import serve_imap
from wd_trio.servers.listener import Handler
from wd_trio.servers.lmtp.session import LmtpOptions, LmtpServices, serve_lmtp
from wd_trio.servers.pop3.options import Pop3Options, Pop3Services
from wd_trio.servers.pop3.session import serve_pop3
from wd_trio.service.auth import Auth, AuthOptions
from wd_trio.service.changes import ChangeHub
from wd_trio.service.changing import Changing
from wd_trio.service.credentials import Hasher
from wd_trio.service.delivery import Delivery, DeliveryOptions
from wd_trio.service.directory import Directory
from wd_trio.service.intake import Intake
from wd_trio.service.mailboxes import Mailboxes
from wd_trio.service.maildrop import Maildrops
from wd_trio.service.messages import Messages
from wd_trio.service.reading import Reading
from wd_trio.service.sessions import SessionOptions, Sessions
from wd_trio.service.tokens import Tokens
from wd_trio.service.tracking import Tracking
from wd_trio.service.updates import Updates
from wd_trio.service.users import UserOptions, Users

log = structlog.get_logger()
T = TypeVar("T")

UPKEEP: Final = "upkeep"
READERS: Final = 4
WORKERS: Final = 2
CLOSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that serves, composed. `owner` is the name under which this process holds claims and,
    without the server's, sessions."""

    gateway: Gateway
    store: SqliteStore
    documents: SqliteDocuments
    limits: SqliteLimits
    users: Users
    directory: Directory
    tokens: Tokens
    auth: Auth
    hub: ChangeHub
    intake: Intake
    delivery: Delivery
    mailboxes: Mailboxes
    messages: Messages
    reading: Reading
    changing: Changing
    updates: Updates
    maildrops: Maildrops
    sessions: Sessions
    tracking: Tracking
    upkeep: Upkeep
    owner: str

    async def bury(self, owner: str) -> None:
        """End the claims and sessions that a worker of this server, now gone, held under that name. Unavailable."""
        claims = await self.gateway.run(self.limits.release_owner, owner)
        sessions = await self.sessions.end_worker(_worker_of(owner))
        if claims or sessions:
            log.info("ended what a dead worker held", owner=owner, claims=claims, sessions=sessions)


class Upkeep:
    """What the janitor does to the engine. Raises Unavailable."""

    def __init__(self, gateway: Gateway, database: SqliteDatabase, store: SqliteStore) -> None:
        self._gateway = gateway
        self._database = database
        self._store = store

    async def lead_and_checkpoint(self) -> bool:
        """Checkpoint the database if this process leads or can take the lead; whether it does."""
        return await self._gateway.run(self._lead_and_checkpoint)

    @in_lane(UPKEEP)
    def _lead_and_checkpoint(self) -> bool:
        if not self._database.try_lead():
            return False
        self._database.checkpoint()
        return True

    async def collect_blobs(self, *, unused_for_s: int, limit: int) -> int:
        return await self._gateway.run(self._store.collect_blobs, unused_for_s=unused_for_s, limit=limit)

    async def trim_journal(self, *, older_than_s: int, limit: int) -> int:
        return await self._gateway.run(self._store.trim_journal, older_than_s=older_than_s, limit=limit)


def hostname(config: Config) -> str:
    """The name in greetings and trace headers."""
    return config.server.hostname or socket.gethostname()


def _worker_of(owner: str) -> str:
    """The worker's name among those of its server."""
    return owner.rpartition("/")[2]


def clear_state(config: Config) -> None:
    """Forget all claims and strikes, and this server's sessions: for a server that starts, since those of killed
    processes would stay. Blocking.

    Invalid or Unavailable when the volatile database cannot be opened.
    """
    state = open_state(sqlite_path(config.store.url))
    try:
        SqliteLimits(state).clear()
        SqliteSessions(state).end_owner(hostname(config))
    finally:
        state.close()


@asynccontextmanager
async def open_services(config: Config, *, bus: Bus, server: str, worker: str) -> AsyncIterator[Services]:
    """All services on the configured store, for one process of `server`; `worker` is the name under which it
    holds claims and sessions, by custom `<server>/<name>`.

    Invalid when the store cannot be this version's; Unavailable when it cannot be opened now.
    """
    path = sqlite_path(config.store.url)
    async with AsyncExitStack() as stack:
        database = await _in_thread(partial(SqliteDatabase, path))
        stack.push_async_callback(_close, database)
        state = await _in_thread(partial(open_state, path))
        stack.push_async_callback(_close, state)
        gateway = await stack.enter_async_context(Gateway(_lanes(config, database, state)))
        log.debug("services open", server=server, worker=worker)
        yield _compose(config, gateway, database, state, hub=ChangeHub(bus), server=server, owner=worker)


def _lanes(config: Config, database: SqliteDatabase, state: SqliteDatabase) -> list[LaneOptions]:
    cores = len(os.sched_getaffinity(0))
    hashers = max(1, cores // (config.server.workers or cores))  # one per core over all workers
    return [
        LaneOptions(name="store.write", group=database.group),
        LaneOptions(name="store.read", threads=READERS, abandon=True),
        LaneOptions(name="state.write", group=state.group),
        LaneOptions(name="state.read", abandon=True),
        LaneOptions(name=WORK, threads=WORKERS),
        LaneOptions(name=HASH, threads=hashers, queue=200, wait_s=4.0, abandon=True),
        LaneOptions(name=UPKEEP),
    ]


def _compose(
    config: Config,
    gateway: Gateway,
    database: SqliteDatabase,
    state: SqliteDatabase,
    *,
    hub: ChangeHub,
    server: str,
    owner: str,
) -> Services:
    store = SqliteStore(database)
    documents = SqliteDocuments(database)
    limits = SqliteLimits(state)
    sessions = SqliteSessions(state)
    tracking = Tracking(gateway=gateway, documents=documents, sessions=sessions)
    hasher = Hasher(time_cost=config.auth.argon2_time_cost, memory_kib=config.auth.argon2_memory_kib)
    users = Users(
        gateway=gateway,
        documents=documents,
        store=store,
        hasher=hasher,
        options=UserOptions(default_quota_bytes=config.limits.quota_bytes),
    )
    auth = Auth(
        gateway=gateway,
        users=users,
        limits=limits,
        hasher=hasher,
        options=AuthOptions(
            failure_delay_s=config.auth.failure_delay_s,
            failed_logins_per_ip=config.limits.failed_logins_per_ip,
            failed_logins_per_user=config.limits.failed_logins_per_user,
        ),
    )
    intake = Intake(gateway=gateway, store=store)
    mailboxes = Mailboxes(gateway=gateway, store=store, hub=hub)
    messages = Messages(gateway=gateway, store=store, hub=hub, intake=intake)
    reading = Reading(gateway=gateway, store=store, messages=messages)
    return Services(
        gateway=gateway,
        store=store,
        documents=documents,
        limits=limits,
        users=users,
        directory=Directory(gateway=gateway, documents=documents, store=store),
        tokens=Tokens(gateway=gateway, documents=documents, hub=hub),
        auth=auth,
        hub=hub,
        intake=intake,
        delivery=Delivery(
            gateway=gateway,
            store=store,
            users=users,
            intake=intake,
            hub=hub,
            options=DeliveryOptions(hostname=hostname(config)),
        ),
        mailboxes=mailboxes,
        messages=messages,
        reading=reading,
        changing=Changing(reading=reading, mailboxes=mailboxes, messages=messages, users=users),
        updates=Updates(gateway=gateway, store=store, hub=hub),
        maildrops=Maildrops(
            gateway=gateway, limits=limits, mailboxes=mailboxes, messages=messages, owner=owner
        ),
        sessions=Sessions(
            gateway=gateway,
            store=sessions,
            hub=hub,
            tracking=tracking,
            server=server,
            worker=_worker_of(owner),
            options=SessionOptions(connections_per_user=config.limits.connections_per_user),
        ),
        tracking=tracking,
        upkeep=Upkeep(gateway, database, store),
        owner=owner,
    )


def handlers(services: Services, config: Config) -> dict[str, Handler]:
    """What serves a connection of each protocol."""
    imap_services = ImapServices(
        auth=services.auth,
        sessions=services.sessions,
        mailboxes=services.mailboxes,
        messages=services.messages,
        hub=services.hub,
    )
    imap_options = ImapOptions(
        hostname=hostname(config),
        version=__version__,
        engine=replace(
            ImapOptions().engine,
            max_command_bytes=config.limits.command_bytes,
            max_message_bytes=config.limits.message_bytes,
        ),
        idle_timeout_s=config.imap.idle_timeout_s,
        trusted_networks=_trusted(config),
    )
    pop3_services = Pop3Services(auth=services.auth, sessions=services.sessions, maildrops=services.maildrops)
    pop3_options = Pop3Options(
        hostname=hostname(config),
        idle_timeout_s=config.pop3.idle_timeout_s,
        trusted_networks=_trusted(config),
    )
    lmtp_services = LmtpServices(delivery=services.delivery)
    lmtp_options = LmtpOptions(
        hostname=hostname(config),
        idle_timeout_s=config.lmtp.idle_timeout_s,
        message_bytes=config.limits.message_bytes,
        recipients=config.lmtp.recipients,
    )
    return {
        "imap": lambda connection: serve_imap(connection, imap_services, imap_options),
        "pop3": lambda connection: serve_pop3(connection, pop3_services, pop3_options),
        "lmtp": lambda connection: serve_lmtp(connection, lmtp_services, lmtp_options),
    }


def api_services(services: Services, config: Config) -> ApiServices:
    """What the API is made over."""
    return ApiServices(
        users=services.users,
        directory=services.directory,
        auth=services.auth,
        tokens=services.tokens,
        sessions=services.sessions,
        mailboxes=services.mailboxes,
        messages=services.messages,
        reading=services.reading,
        changing=services.changing,
        updates=services.updates,
        hub=services.hub,
        options=ApiOptions(
            access_token=config.api.access_token,
            access_control=config.api.access_control,
            message_bytes=config.limits.message_bytes,
        ),
    )


def _trusted(config: Config) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(text) for text in config.tls.trusted_networks)


async def _in_thread(call: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(call, limiter=trio.CapacityLimiter(1))


async def _close(database: SqliteDatabase) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S) as scope:
        await trio.to_thread.run_sync(database.close, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True)
    if scope.cancelled_caught:
        log.warning("the database hangs", path=str(database.path))
