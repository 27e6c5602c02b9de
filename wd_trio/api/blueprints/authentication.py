"""Log-in over the API: /authenticate for services that act for users, with a token of the user's for the asking."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from wd_trio.api.auth import ANY, ROOT, Caller
from wd_trio.api.errors import NotPermitted
from wd_trio.api.fields import Password, Text
from wd_trio.api.routing import Routes
from wd_trio.api.schema import Answer, Done, Request
from wd_trio.api.services import ApiServices
from wd_trio.errors import Denied
from wd_trio.secret import Secret

routes: Final = Routes("Authentication")


class Authenticate(Request, frozen=True):
    username: Annotated[str, Meta(min_length=1, max_length=256, description="A username or any address")]
    password: Password
    protocol: Annotated[Text, Meta(description="What the user logs in to")] = "API"
    scope: Literal["master", "imap", "pop3", "smtp"] = "master"
    token: Annotated[bool, Meta(description="Answer with a token of the user's")] = False


class Authenticated(Answer, kw_only=True, frozen=True):
    id: str
    username: str
    address: str
    scope: str
    require2fa: bool = False
    require_password_change: bool = False
    token: str | UnsetType = UNSET


@routes.route("POST", "/authenticate", request=Authenticate, response=Authenticated, access=ROOT)
async def authenticate(request: Authenticate, caller: Caller, services: ApiServices) -> Authenticated:
    """Verify a user's password; `ip` is where the user comes from, whose failures are counted"""
    try:
        login = await services.auth.login(
            username=request.username,
            password=Secret(request.password),
            peer_ip=request.ip or caller.sent.ip,
            protocol="api",
        )
    except Denied as error:
        raise Denied(str(error), what="login") from error
    token: str | UnsetType = UNSET
    if request.token:
        token = (await services.tokens.issue(login.user_id, login.auth_version)).reveal()
    return Authenticated(
        id=login.user_id,
        username=login.username,
        address=login.address,
        scope=request.scope,
        token=token,
    )


@routes.route("DELETE", "/authenticate", request=Request, response=Done, access=ANY)
async def revoke_token(request: Request, caller: Caller, services: ApiServices) -> Done:
    """Revoke the token of this very call"""
    if caller.token is None:
        raise NotPermitted("the configured token has no end")
    await services.tokens.revoke(caller.token)
    return Done()


class TokenShown(Answer, kw_only=True, frozen=True):
    """Whose token it is; `user` is null for root's."""

    role: str
    user: str | None


@routes.route("GET", "/authenticated", request=Request, response=TokenShown, access=ANY)
async def show_token(request: Request, caller: Caller, services: ApiServices) -> TokenShown:
    """Ask whether a token is valid, and whose it is"""
    return TokenShown(role=caller.role, user=caller.user_id)
