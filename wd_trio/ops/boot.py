"""The composition root: the one file that names concrete adapters and turns the configuration into options.

`open_services` opens the engine, then the gateway's lanes, then composes the services over them; it closes in the
opposite order, bounded, so that an engine that hangs cannot hold the exit. Workers use it, and so does each errand
of the command line, with a bus that goes nowhere.

The engine brings its lanes. Besides, hashing passwords gets one thread a core, "work" is computing and scratch files,
"upkeep" is the janitor's.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from wd_trio.adapters.bridge import Gateway, LaneOptions
from wd_trio.addresses import is_cluster
from wd_trio.api.services import ApiOptions, ApiServices
from wd_trio.config import Config
from wd_trio.ops import embedded
from wd_trio.ops.engine import UPKEEP, Engine, RunningBus
from wd_trio.ports.documents import Documents
from wd_trio.ports.gateway import HASH, WORK
from wd_trio.ports.limits import Limits
from wd_trio.ports.mail import MailStore
from wd_trio.servers.tls import server_context
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
from wd_trio.service.users import ADDRESSES, TOKENS, TRACKING, USERS, UserOptions, Users

log = structlog.get_logger()

WORKERS: Final = 2
COLLECTIONS: Final = (USERS, ADDRESSES, TRACKING, TOKENS)
"""Of documents, whose indexes an engine may want to make before anything is served."""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that serves, composed. `owner` is the name under which this process holds claims and,
    without the server's, sessions."""

    gateway: Gateway
    engine: Engine
    bus: RunningBus
    store: MailStore
    documents: Documents
    limits: Limits
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
    owner: str

    async def bury(self, owner: str) -> None:
        """End the claims and sessions that a worker of this server, now gone, held under that name. Unavailable."""
        claims = await self.gateway.run(self.limits.release_owner, owner)
        sessions = await self.sessions.end_worker(_worker_of(owner))
        if claims or sessions:
            log.info("ended what a dead worker held", owner=owner, claims=claims, sessions=sessions)


def hostname(config: Config) -> str:
    """The name in greetings and trace headers."""
    return config.server.hostname or socket.gethostname()


def _worker_of(owner: str) -> str:
    """The worker's name among those of its server."""
    return owner.rpartition("/")[2]


def server_name(config: Config) -> str:
    """The name under which this run of the server holds leases, claims and sessions. Servers of a cluster may have
    one host name among them, and what a killed one held is not the next one's: its lease ends it."""
    if is_cluster(config.store.url):
        return f"{hostname(config)}.{secrets.token_hex(4)}"
    return hostname(config)


def clear_state(config: Config) -> None:
    """Forget what killed processes of this store's one server held: for a server that starts. In a cluster nothing
    is to be forgotten. Blocking.

    Invalid or Unavailable when the volatile database cannot be opened.
    """
    if not is_cluster(config.store.url):
        embedded.clear_state(config.store.url, server_name(config))


@asynccontextmanager
async def open_services(
    config: Config, *, server: str, worker: str, hub: socket.socket | None = None
) -> AsyncIterator[Services]:
    """All services on the configured engine, for one process of `server`; `worker` is the name under which it
    holds claims and sessions, by custom `<server>/<name>`. `hub` is its place at the supervisor's hub, if any, and
    the services' to close.

    Invalid when the engine cannot be this version's; Unavailable when it cannot be opened now.
    """
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(_open_engine(config, hub, worker))
        gateway = await stack.enter_async_context(Gateway([*engine.lanes, *_lanes(config)]))
        log.debug("services open", server=server, worker=worker)
        services = _compose(config, gateway, engine, server=server, owner=worker)
        stack.callback(services.bus.close)
        yield services


def _open_engine(
    config: Config, hub: socket.socket | None, owner: str
) -> AbstractAsyncContextManager[Engine]:
    if is_cluster(config.store.url):
        from wd_trio.ops import cluster  # noqa: PLC0415  # its drivers' 20 MB a process are for those who use them

        return cluster.open_cluster(config.store.url, config.redis.url, collections=COLLECTIONS, owner=owner)
    return embedded.open_embedded(config.store.url, hub=hub)


def _lanes(config: Config) -> list[LaneOptions]:
    """The lanes that belong to no engine."""
    cores = len(os.sched_getaffinity(0))
    hashers = max(1, cores // (config.server.workers or cores))  # one per core over all workers
    return [
        LaneOptions(name=WORK, threads=WORKERS),
        LaneOptions(name=HASH, threads=hashers, queue=200, wait_s=4.0, abandon=True),
        LaneOptions(name=UPKEEP),
    ]


def _compose(
    config: Config,
    gateway: Gateway,
    engine: Engine,
    *,
    server: str,
    owner: str,
) -> Services:
    store, documents, limits, sessions = engine.store, engine.documents, engine.limits, engine.sessions
    bus = engine.open_bus(gateway)
    hub = ChangeHub(bus)
    tracking = Tracking(gateway=gateway, documents=documents, sessions=sessions)
    users, auth = _accounts(config, gateway, engine, hub)
    intake = Intake(gateway=gateway, store=store)
    mailboxes = Mailboxes(gateway=gateway, store=store, hub=hub)
    messages = Messages(gateway=gateway, store=store, hub=hub, intake=intake)
    reading = Reading(gateway=gateway, store=store, messages=messages)
    return Services(
        gateway=gateway,
        engine=engine,
        bus=bus,
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
        owner=owner,
    )


def _accounts(config: Config, gateway: Gateway, engine: Engine, hub: ChangeHub) -> tuple[Users, Auth]:
    hasher = Hasher(time_cost=config.auth.argon2_time_cost, memory_kib=config.auth.argon2_memory_kib)
    users = Users(
        gateway=gateway,
        documents=engine.documents,
        store=engine.store,
        hasher=hasher,
        hub=hub,
        options=UserOptions(default_quota_bytes=config.limits.quota_bytes),
    )
    auth = Auth(
        gateway=gateway,
        users=users,
        limits=engine.limits,
        hasher=hasher,
        options=AuthOptions(
            failure_delay_s=config.auth.failure_delay_s,
            failed_logins_per_ip=config.limits.failed_logins_per_ip,
            failed_logins_per_user=config.limits.failed_logins_per_user,
        ),
    )
    return users, auth


def api_tls(config: Config) -> ssl.SSLContext | None:
    """What the API's TLS is made with, where it has such listeners. Invalid when the certificate is no good."""
    return server_context(config.tls.certificate, config.tls.key) if config.api.tls_listen else None


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
            cors_origins=config.api.cors_origins,
            requests_per_s=config.api.requests_per_s,
            root_requests_per_s=config.api.root_requests_per_s,
        ),
    )
