"""Who calls, and what a caller may: tokens from the request, access by route.

A token comes as `Authorization: Bearer …`, as `X-Access-Token`, or as `?accessToken=`, in this order. The
configured one is root's and compared in constant time; any other is looked up (service/tokens.py). A token that is
sent is always verified; only a call without one is root's where access control is off.

A user's token reaches its own user only: the id in the path must be its own, or `me`. That is decided here, before
the body is read, once for all routes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wd_trio.api.asgi import Incoming
from wd_trio.api.errors import BadToken, NotPermitted, TooOften
from wd_trio.api.services import ApiServices
from wd_trio.errors import Denied
from wd_trio.secret import Secret
from wd_trio.service.tokens import ROOT_ROLE, USER_ROLE, Token

ROOT: Final = frozenset({ROOT_ROLE})
"""Routes of root's only."""
OWN: Final = frozenset({ROOT_ROLE, USER_ROLE})
"""Routes of root's, and of the user who is named in the path."""
ANY: Final = OWN
"""Routes that name no user: whoever has a token."""
ME: Final = "me"
TOKEN_KEY: Final = "accessToken"
_BEARER: Final = "bearer "


@dataclass(frozen=True, slots=True)
class Caller:
    """`user_id` is None for root; `token` None for the configured one and where access control is off. `secret` is
    what was sent as a token; `sent` the request itself."""

    role: str
    user_id: str | None
    token: Token | None
    secret: Secret
    sent: Incoming


async def authenticate(services: ApiServices, incoming: Incoming, query_token: str) -> Caller:
    """Who calls. BadToken; TooOften; Unavailable."""
    secret = Secret(_sent_token(incoming) or query_token)
    options = services.options
    if not secret:
        if options.access_control:
            raise BadToken("no token")
        return Caller(ROOT_ROLE, None, None, secret, incoming)
    token: Token | None = None
    if not options.access_token or secret != options.access_token:
        token = await _verified(services, secret)
    role, user_id = (ROOT_ROLE, None) if token is None else (token.role, token.user_id)
    per_s = options.requests_per_s if role == USER_ROLE else options.root_requests_per_s
    if per_s:
        key = "" if token is None else token.id
        wait_s = services.buckets.take(key, per_s=per_s, burst_s=options.burst_s)
        if wait_s:
            raise TooOften(wait_s)
    return Caller(role, user_id, token, secret, incoming)


async def verify_again(services: ApiServices, caller: Caller) -> None:
    """BadToken when a token that was verified once is no longer valid; Unavailable."""
    if caller.token is not None:
        await _verified(services, caller.secret)


async def _verified(services: ApiServices, secret: Secret) -> Token:
    try:
        return await services.tokens.verify(secret)
    except Denied as error:
        raise BadToken(str(error)) from error


def permitted(caller: Caller, access: frozenset[str], path_user: str | None) -> str | None:
    """The user that the path names, `me` resolved; None when it names none. NotPermitted."""
    if caller.role not in access:
        raise NotPermitted(f"{caller.role} may not do this")
    if path_user is None or caller.user_id is None:
        return path_user
    if path_user not in (ME, caller.user_id):
        raise NotPermitted("another user's")
    return caller.user_id


def _sent_token(incoming: Incoming) -> str:
    authorization = incoming.header(b"authorization")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip()
    return incoming.header(b"x-access-token").strip()
