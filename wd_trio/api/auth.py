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

from werkzeug.datastructures import Headers

from wd_trio.api.errors import BadToken, NotPermitted
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
    """`user_id` is None for root; `token` None for the configured one and where access control is off; `ip` the
    address of the connection's other end, "" for a Unix socket's."""

    role: str
    user_id: str | None
    token: Token | None
    ip: str


async def authenticate(services: ApiServices, headers: Headers, query_token: str, ip: str) -> Caller:
    """Who calls. BadToken; Unavailable."""
    text = _sent_token(headers) or query_token
    options = services.options
    if not text:
        if options.access_control:
            raise BadToken("no token")
        return Caller(ROOT_ROLE, None, None, ip)
    secret = Secret(text)
    if options.access_token and secret == options.access_token:
        return Caller(ROOT_ROLE, None, None, ip)
    try:
        token = await services.tokens.verify(secret)
    except Denied as error:
        raise BadToken(str(error)) from error
    return Caller(token.role, token.user_id, token, ip)


def permitted(caller: Caller, access: frozenset[str], path_user: str | None) -> str | None:
    """The user that the path names, `me` resolved; None when it names none. NotPermitted."""
    if caller.role not in access:
        raise NotPermitted(f"{caller.role} may not do this")
    if path_user is None or caller.user_id is None:
        return path_user
    if path_user not in (ME, caller.user_id):
        raise NotPermitted("another user's")
    return caller.user_id


def _sent_token(headers: Headers) -> str:
    authorization = headers.get("Authorization", "")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip()
    return headers.get("X-Access-Token", "").strip()
