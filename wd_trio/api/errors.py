"""Errors as answers: the one table from domain errors to statuses and codes, and the one shape.

    {"error": a fixed text, "code": WildDuck's word for it, "details": {field: text}}     details only where they help

An exception's text is for the log. What nobody expected is logged with a request id, which the answer tells as well,
so that a caller's complaint can be found in the log.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
import trio
from werkzeug.exceptions import HTTPException

from wd_trio import errors
from wd_trio.api.asgi import NO_STORE, Header, Reply
from wd_trio.api.schema import Faults

log = structlog.get_logger()

RETRY_AFTER_S: Final[Mapping[int, int]] = {429: 60, 503: 5}
"""When to come again, by status, where the error does not say: an engine that failed is tried again every moment."""
_UNSAID: Final = "*"


class BadToken(errors.Denied):
    """There is no token, or none that is valid now."""


class NotPermitted(errors.Denied):
    """A valid token that may not do this."""


class TooOften(errors.Limited):
    """A token that calls more often than it may; how long to wait."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("more calls than this token may make", what="token")
        self.retry_after_s = retry_after_s


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every answer that is not 2xx."""

    error: str
    code: str
    details: dict[str, str] | None = None


# By class, most particular first; in it by `what`, "*" for all others: status, code, text.
TABLE: Final[tuple[tuple[type[Exception], Mapping[str, tuple[int, str, str]]], ...]] = (
    (BadToken, {_UNSAID: (403, "InvalidToken", "Invalid accessToken value")}),
    (NotPermitted, {_UNSAID: (403, "MissingPrivileges", "Not enough privileges")}),
    (
        errors.NotFound,
        {
            "user": (404, "UserNotFound", "This user does not exist"),
            "address": (404, "AddressNotFound", "This address does not exist"),
            "mailbox": (404, "NoSuchMailbox", "This mailbox does not exist"),
            "message": (404, "MessageNotFound", "This message does not exist"),
            "attachment": (404, "FileNotFound", "This attachment does not exist"),
            _UNSAID: (404, "NotFound", "There is no such thing"),
        },
    ),
    (
        errors.Conflict,
        {
            "username": (400, "UserExistsError", "This username already exists"),
            "address": (400, "AddressExistsError", "This email address already exists"),
            "mailbox": (400, "MailboxExistsError", "Mailbox already exists"),
            _UNSAID: (409, "Conflict", "Somebody else changed it at the same time"),
        },
    ),
    (errors.Invalid, {_UNSAID: (400, "InputValidationError", "The input is not valid")}),
    (
        errors.Denied,
        {
            "address": (403, "ChangeNotAllowed", "The main address and the username's cannot be removed"),
            "mailbox": (403, "DisallowedMailboxMethod", "This cannot be done with this mailbox"),
            "user": (403, "UserDisabled", "This user is disabled"),
            "login": (403, "AuthFailed", "Authentication failed"),
            _UNSAID: (403, "MissingPrivileges", "Not enough privileges"),
        },
    ),
    (errors.OverQuota, {_UNSAID: (403, "OverQuotaError", "This account has no room for it")}),
    (errors.Limited, {_UNSAID: (429, "RateLimitedError", "Too much for now, try again later")}),
    (errors.Unavailable, {_UNSAID: (503, "ServiceUnavailable", "The service is unavailable")}),
    (trio.TooSlowError, {_UNSAID: (503, "ServiceUnavailable", "It took too long")}),
)
_UNEXPECTED: Final = (500, "InternalDatabaseError", "Internal error")
_ENCODER: Final = msgspec.json.Encoder()


def answer(error: Exception) -> Reply:
    """The answer to an error, logged where it is ours."""
    error = _single(error)
    if isinstance(error, HTTPException):
        return http_answer(error)
    for kind, by_what in TABLE:
        if isinstance(error, kind):
            what = error.what if isinstance(error, errors.WdError) else ""
            status, code, text = by_what.get(what) or by_what[_UNSAID]
            if status == 503:
                log.warning("request not served", error=str(error), what=what)
            return failure(status, code, text, _details(error), _retry_after(error, status))
    request_id = secrets.token_hex(8)
    log.error("request failed", request=request_id, exc_info=error)
    return failure(*_UNEXPECTED, {"request": request_id})


def http_answer(error: HTTPException) -> Reply:
    """The answer to what HTTP itself knows: no such path, no such method, too large, too slow."""
    allowed = tuple(
        (b"allow", value.encode("latin-1")) for name, value in error.get_headers() if name == "Allow"
    )
    name = error.name.replace(" ", "").replace("'", "")
    return failure(error.code or 500, name, error.name, headers=allowed)


def failure(
    status: int,
    code: str,
    text: str,
    details: dict[str, str] | None = None,
    headers: tuple[Header, ...] = (),
) -> Reply:
    return Reply(_ENCODER.encode(Failure(text, code, details)), status, headers=(NO_STORE, *headers))


def _retry_after(error: Exception, status: int) -> tuple[Header, ...]:
    if status not in RETRY_AFTER_S:
        return ()
    seconds = math.ceil(error.retry_after_s) if isinstance(error, TooOften) else RETRY_AFTER_S[status]
    return ((b"retry-after", b"%d" % max(1, seconds)),)


def _details(error: Exception) -> dict[str, str] | None:
    if isinstance(error, Faults):
        return error.details
    if isinstance(error, errors.Invalid):
        return {error.what or "request": "is not valid"}
    return None


def _single(error: Exception) -> Exception:
    """The one error that a group of one consists of; any other as it is."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
