"""What an operator does beside the server: accounts, addresses, sessions, backups, and the first run's demo account.

Each function opens the services on the configured store for one errand and closes them again; a running server
shares the store and sees the outcome at its next look. Nothing here listens or stays.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from wd_trio.adapters.sqlite import backup
from wd_trio.addresses import is_cluster, sqlite_path
from wd_trio.config import Config, Log
from wd_trio.errors import Invalid, NotFound, Unavailable, WdError
from wd_trio.ops import control, log
from wd_trio.ops.boot import Services, open_services
from wd_trio.ports.sessions import SessionDocument
from wd_trio.secret import Secret, random_password

T = TypeVar("T")

DEMO_USER: Final = "demo"
DEMO_ADDRESS: Final = "demo@localhost"
_PAGE: Final = 200
KILL_WAIT_S: Final = 10.0
KILL_LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Account:
    """One line of the list of users. `quota_bytes`: 0 unlimited, None the configured default."""

    username: str
    address: str
    messages: int
    used_bytes: int
    quota_bytes: int | None
    disabled: bool


@dataclass(frozen=True, slots=True)
class OpenSession:
    """One line of the list of sessions; times in seconds since the epoch."""

    id: str
    username: str
    protocol: str
    ip: str
    worker: str
    created: int
    last_activity: int
    user_agent: str


@dataclass(frozen=True, slots=True)
class Demo:
    """What the first run made, each shown once; None for what was there already."""

    password: Secret | None
    token: Secret | None


def _run(config: Config, errand: Callable[[Services], Awaitable[T]]) -> T:
    """Run one errand on freshly opened services; an expected failure arrives as itself, never in a group."""

    log.configure(Log(level="warning", format=config.log.format))

    async def main() -> T:
        try:
            async with (
                open_services(config, server="cli", worker="cli") as services,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(services.bus.run)
                value = await errand(services)
                await services.bus.flush()
                nursery.cancel_scope.cancel()
                return value
        except BaseExceptionGroup as group:
            raise _expected(group) or group from None

    return trio.run(main)


def _expected(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The one WdError or OSError that a group consists of, if that is all there is in it."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found if isinstance(found, (WdError, OSError)) else None


# --- accounts ---------------------------------------------------------------------------------------------


def add_user(
    config: Config,
    username: str,
    password: Secret,
    *,
    address: str | None,
    full_name: str = "",
    quota_bytes: int | None = None,
) -> None:
    """Make an account; without `address`, the name is its address where it is one. Conflict, Invalid."""
    first = address or (username if "@" in username else None)

    async def errand(services: Services) -> None:
        await services.users.create(
            username, password, address=first, name=full_name, quota_bytes=quota_bytes
        )

    _run(config, errand)


def list_users(config: Config, prefix: str = "") -> list[Account]:
    """All accounts whose names begin with `prefix`, in order of name."""

    async def errand(services: Services) -> list[Account]:
        accounts: list[Account] = []
        after: str | None = None
        while True:
            users, after, _ = await services.users.page(prefix, after, _PAGE)
            for user in users:
                usage = await services.gateway.run(services.store.usage, user.id)
                accounts.append(
                    Account(
                        username=user.username,
                        address=user.address,
                        messages=usage.messages,
                        used_bytes=usage.size_bytes,
                        quota_bytes=user.quota_bytes,
                        disabled=user.disabled,
                    )
                )
            if after is None:
                return accounts

    return _run(config, errand)


def set_password(config: Config, username: str, password: Secret) -> None:
    """Ends the user's sessions too. NotFound when there is no such user; Unavailable, the password being set, when
    sessions have not ended in time."""

    async def errand(services: Services) -> None:
        user = await services.users.by_username(username)
        await services.users.set_password(user.id, password)
        await _end_sessions(services, config, user.id)

    _run(config, errand)


def set_quota(config: Config, username: str, quota_bytes: int | None) -> None:
    """0: unlimited; None: the configured default. NotFound."""

    async def errand(services: Services) -> None:
        user = await services.users.by_username(username)
        await services.users.set_quota(user.id, quota_bytes)

    _run(config, errand)


def delete_user(config: Config, username: str) -> None:
    """Delete an account and all its mail, and end its sessions. NotFound; Unavailable, the account being deleted,
    when sessions have not ended in time."""

    async def errand(services: Services) -> None:
        user = await services.users.by_username(username)
        try:
            await services.users.delete(user.id)
        finally:  # nobody finds the id by its name again
            await _end_sessions(services, config, user.id)

    _run(config, errand)


def add_address(config: Config, username: str, address: str) -> None:
    """NotFound for the user, Conflict for an address that is taken, Invalid for one that is none."""

    async def errand(services: Services) -> None:
        user = await services.users.by_username(username)
        await services.users.add_address(user.id, address)

    _run(config, errand)


def list_addresses(config: Config, username: str) -> list[str]:
    """The addresses of an account. NotFound."""

    async def errand(services: Services) -> list[str]:
        user = await services.users.by_username(username)
        return [found.address for found in await services.users.addresses(user.id)]

    return _run(config, errand)


def delete_address(config: Config, address: str) -> None:
    """NotFound when there is no such address."""

    async def errand(services: Services) -> None:
        await services.users.delete_address(address)

    _run(config, errand)


# --- sessions ---------------------------------------------------------------------------------------------


def list_sessions(config: Config, username: str | None = None) -> list[OpenSession]:
    """The live sessions of one user or of all, oldest first. NotFound for the user."""

    async def errand(services: Services) -> list[OpenSession]:
        if username is not None:
            user = await services.users.by_username(username)
            return [_shown(document, username) for document in await services.sessions.of_user(user.id)]
        documents: list[SessionDocument] = []
        after: str | None = None
        while True:
            page = await services.sessions.page(after=after, limit=_PAGE)
            documents.extend(page.documents)
            after = page.next
            if after is None:
                break
        names = await _usernames(services, {document.user for document in documents})
        documents.sort(key=lambda document: document.created)
        return [_shown(document, names[document.user]) for document in documents]

    return _run(config, errand)


async def _usernames(services: Services, user_ids: set[str]) -> dict[str, str]:
    """The names of users by id; the id itself for one who is gone."""
    names: dict[str, str] = {}
    for user_id in user_ids:
        try:
            names[user_id] = (await services.users.get(user_id)).username
        except NotFound:
            names[user_id] = user_id
    return names


def _shown(document: SessionDocument, username: str) -> OpenSession:
    return OpenSession(
        id=document.id,
        username=username,
        protocol=document.protocol,
        ip=document.ip,
        worker=f"{document.server}/{document.worker}",
        created=document.created // 1000,
        last_activity=document.last_activity // 1000,
        user_agent=document.user_agent,
    )


def kill_sessions(config: Config, *, session_id: str | None = None, username: str | None = None) -> int:
    """End one session, or all of a user, and wait until they are gone; how many there were.

    NotFound for the user or the session; Unavailable when no server is running, or some have not ended in time:
    they are marked all the same, and end as soon as their worker looks.
    """

    async def errand(services: Services) -> int:
        if session_id is not None:
            found = await services.sessions.get(session_id)
            if found is None:
                raise NotFound(f"no session {session_id}", what="session")
            user_id, ids = found.user, [session_id]
        else:
            user_id, ids = (await services.users.by_username(username or "")).id, None
        return await _end_sessions(services, config, user_id, ids, server_needed=True)

    return _run(config, errand)


async def _end_sessions(
    services: Services,
    config: Config,
    user_id: str,
    ids: list[str] | None = None,
    *,
    server_needed: bool = False,
) -> int:
    """Mark sessions of a user, tell the running server in any case, since what has no session ends by that hint too,
    and wait until they are gone; how many there were. Unavailable, but when no server runs only if there are sessions
    and it is needed."""
    marked = await services.sessions.kill(user_id, ids)
    if is_cluster(config.store.url):  # its bus has told all servers
        await services.bus.flush()
        await _wait_gone(services, user_id, set(marked))
        return len(marked)
    try:
        await trio.to_thread.run_sync(partial(control.request, config, "kill", user=user_id))
    except Unavailable as error:
        runs = not isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError)
        if runs or (server_needed and marked):
            raise
    else:
        await _wait_gone(services, user_id, set(marked))
    return len(marked)


async def _wait_gone(services: Services, user_id: str, ids: set[str]) -> None:
    until = trio.current_time() + KILL_WAIT_S
    while left := ids & {document.id for document in await services.sessions.of_user(user_id)}:
        if trio.current_time() >= until:
            raise Unavailable(f"{len(left)} of {len(ids)} sessions have not ended yet", what="sessions")
        await trio.sleep(KILL_LOOK_S)


# --- the first run ----------------------------------------------------------------------------------------


def prepare_demo(config: Config) -> Demo:
    """Make the demo account, and a root API token where the configuration has none and none was made before."""

    async def errand(services: Services) -> Demo:
        password: Secret | None = None
        try:
            await services.users.by_username(DEMO_USER)
        except NotFound:
            password = Secret(random_password())
            await services.users.create(DEMO_USER, password, address=DEMO_ADDRESS, name="Demo")
        return Demo(password, await _first_token(services, config))

    return _run(config, errand)


async def _first_token(services: Services, config: Config) -> Secret | None:
    if config.api.access_token or not config.api.access_control:
        return None
    if await services.tokens.has_root():
        return None
    return await services.tokens.issue_root()


# --- copies -----------------------------------------------------------------------------------------------


def back_up(config: Config, target: Path, progress: Callable[[int, int], None]) -> None:
    """Copy the store into `target`, on a running or a stopped server. `progress` is told (pages done, total).
    Invalid with the cluster engine, whose servers have tools of their own."""
    backup.backup(_existing_store(config), target, progress)


def restore(config: Config, source: Path, progress: Callable[[int, int], None]) -> None:
    """Replace everything in the store by the backup `source`. Invalid when that is no backup, and
    with the cluster engine."""
    backup.restore(source, _store_path(config), progress)


def _existing_store(config: Config) -> Path:
    path = _store_path(config)
    if not path.is_file():
        raise NotFound(f"there is no store at {path}", what="store")
    return path


def _store_path(config: Config) -> Path:
    if is_cluster(config.store.url):
        raise Invalid(
            "MongoDB is copied by its own tools (mongodump, snapshots of its disks)", what="store.url"
        )
    return sqlite_path(config.store.url)
