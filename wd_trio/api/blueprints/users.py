"""Users: /users, and what concerns one of them as a whole.

A user's own token reads its user and changes name and password; limits and state are root's to change. A new
password, and a user's being disabled or suspended, end the sessions and tokens that there are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime
from typing import Annotated, Final

import structlog
import trio
from msgspec import Meta

from wd_trio.api.auth import OWN, ROOT, Caller
from wd_trio.api.errors import NotPermitted
from wd_trio.api.fields import Bytes, EmailAddress, Id, Name, Password, Text, Username
from wd_trio.api.paging import turn_of
from wd_trio.api.routing import Routes
from wd_trio.api.schema import Answer, Created, Done, Faults, Item, Listing, Paging, Request
from wd_trio.api.services import ApiServices
from wd_trio.errors import Denied
from wd_trio.secret import Secret
from wd_trio.service.directory import Profile
from wd_trio.service.users import UserChange

log = structlog.get_logger()
routes: Final = Routes("Users")

REVOKE_S: Final = 6.0

Flag = Annotated[bool, Meta(description="Y, yes, on, 1 and true all mean yes")]


class QuotaUse(Item, frozen=True):
    """Bytes; 0 allowed: no limit."""

    allowed: int
    used: int


class UserLimits(Item, frozen=True):
    quota: QuotaUse


class UserItem(Item, frozen=True):
    """A user in a list."""

    id: str
    username: str
    name: str
    address: str
    quota: QuotaUse
    has_password_set: bool
    activated: bool
    disabled: bool
    suspended: bool
    created: datetime


class CreateUser(Request, frozen=True):
    username: Username
    password: Annotated[Password | bool, Meta(description="false: this user cannot log in by password")]
    address: EmailAddress | None = None
    empty_address: Annotated[bool, Meta(description="Without `address`, none is made up in any case")] = False
    name: Name = ""
    quota: Bytes | None = None


@routes.route("POST", "/users", request=CreateUser, response=Created, access=ROOT)
async def create_user(request: CreateUser, caller: Caller, services: ApiServices) -> Created:
    """Create a user, with its addresses and default mailboxes"""
    if request.password is True:
        raise Faults({"password": "is a text, or false for none"})
    if request.empty_address and request.address is not None:
        raise Faults({"address": "cannot stand beside emptyAddress"})
    password = Secret(request.password) if isinstance(request.password, str) else None
    user = await services.users.create(
        request.username,
        password,
        address=request.address,
        name=request.name,
        quota_bytes=request.quota,
    )
    return Created(id=user.id)


class ListUsers(Paging, frozen=True):
    query: Annotated[str, Meta(max_length=128, description="How usernames begin")] = ""


class UserListing(Listing, kw_only=True, frozen=True):
    query: str
    results: list[UserItem]


@routes.route("GET", "/users", request=ListUsers, response=UserListing, access=ROOT)
async def list_users(request: ListUsers, caller: Caller, services: ApiServices) -> UserListing:
    """List users by username"""
    turn = turn_of(request)
    page = await services.directory.profiles(
        request.query, after=turn.after, before=turn.before, limit=request.limit
    )
    return UserListing(
        query=request.query,
        results=[_item(profile, services) for profile in page.profiles],
        **turn.bounds(total=page.total, previous=page.previous, next=page.next),
    )


class ResolveUser(Request, frozen=True):
    username: Username


class Resolved(Answer, kw_only=True, frozen=True):
    id: str


@routes.route("GET", "/users/resolve/{username}", request=ResolveUser, response=Resolved, access=ROOT)
async def resolve_user(request: ResolveUser, caller: Caller, services: ApiServices) -> Resolved:
    """Find the id of a username"""
    return Resolved(id=(await services.users.by_username(request.username)).id)


class GetUser(Request, frozen=True):
    user: Id


class UserShown(Answer, kw_only=True, frozen=True):
    id: str
    username: str
    name: str
    address: str
    limits: UserLimits
    has_password_set: bool
    activated: bool
    disabled: bool
    suspended: bool
    created: datetime


@routes.route("GET", "/users/{user}", request=GetUser, response=UserShown, access=OWN)
async def get_user(request: GetUser, caller: Caller, services: ApiServices) -> UserShown:
    """Show a user, with limits and what is used of them"""
    profile = await services.directory.profile(request.user)
    user = profile.user
    return UserShown(
        id=user.id,
        username=user.username,
        name=user.name,
        address=user.address,
        limits=UserLimits(quota=_quota(profile, services)),
        has_password_set=bool(user.password_hash),
        activated=True,
        disabled=user.disabled,
        suspended=user.suspended,
        created=datetime.fromtimestamp(user.created, UTC),
    )


class ChangeUser(Request, frozen=True):
    user: Id
    existing_password: Annotated[
        Password | None,
        Meta(description="Verified first where it is given; nothing is changed if it is wrong"),
    ] = None
    password: Password | None = None
    name: Name | None = None
    quota: Bytes | None = None
    disabled: Flag | None = None
    suspended: Flag | None = None


@routes.route("PUT", "/users/{user}", request=ChangeUser, response=Done, access=OWN)
async def change_user(request: ChangeUser, caller: Caller, services: ApiServices) -> Done:
    """Change a user; a user's own token may change name and password"""
    roots = (request.quota, request.disabled, request.suspended)
    if caller.user_id is not None and any(value is not None for value in roots):
        raise NotPermitted("limits and state are root's to change")
    if request.existing_password is not None:
        await _verify(request, request.existing_password, caller, services)
    change = UserChange(
        name=request.name,
        password=None if request.password is None else Secret(request.password),
        quota_bytes=request.quota,
        disabled=request.disabled,
        suspended=request.suspended,
    )
    revokes = request.password is not None or request.disabled or request.suspended
    async with _revoking(request.user, services) if revokes else nullcontext():
        await services.users.update(request.user, change)
    return Done()


@routes.route("DELETE", "/users/{user}", request=GetUser, response=Done, access=ROOT)
async def delete_user(request: GetUser, caller: Caller, services: ApiServices) -> Done:
    """Delete a user, its addresses and all its mail"""
    async with _revoking(request.user, services):
        await services.users.delete(request.user)
    return Done()


class LogOut(Request, frozen=True):
    user: Id
    reason: Annotated[Text | None, Meta(description="Logged; clients are told that they were logged out")] = (
        None
    )


@routes.route("PUT", "/users/{user}/logout", request=LogOut, response=Done, access=OWN)
async def log_out(request: LogOut, caller: Caller, services: ApiServices) -> Done:
    """End all IMAP and POP3 sessions of a user"""
    await services.users.get(request.user)
    ended = await services.sessions.kill(request.user)
    log.info("user logged out", user=request.user, sessions=len(ended), reason=request.reason)
    return Done()


@asynccontextmanager
async def _revoking(user_id: str, services: ApiServices) -> AsyncIterator[None]:
    """What is done inside ends the user's sessions and tokens, however it ends: a request that is cancelled may have
    changed the store, and one that finds no user may repeat one that was cancelled."""
    try:
        yield
    finally:
        with trio.fail_after(REVOKE_S, shield=True):
            services.tokens.forget(user_id)
            await services.sessions.kill(user_id)


async def _verify(request: ChangeUser, password: str, caller: Caller, services: ApiServices) -> None:
    user = await services.users.get(request.user)
    peer_ip = (caller.user_id is None and request.ip) or caller.sent.ip
    try:
        login = await services.auth.login(
            username=user.username, password=Secret(password), peer_ip=peer_ip, protocol="api"
        )
    except Denied as error:
        raise Denied(str(error), what="login") from error
    if login.user_id != request.user:
        raise Denied("another user's password", what="login")


def _item(profile: Profile, services: ApiServices) -> UserItem:
    user = profile.user
    return UserItem(
        id=user.id,
        username=user.username,
        name=user.name,
        address=user.address,
        quota=_quota(profile, services),
        has_password_set=bool(user.password_hash),
        activated=True,
        disabled=user.disabled,
        suspended=user.suspended,
        created=datetime.fromtimestamp(user.created, UTC),
    )


def _quota(profile: Profile, services: ApiServices) -> QuotaUse:
    return QuotaUse(
        allowed=services.users.quota_of(profile.user) or 0,
        used=profile.usage.size_bytes,
    )
