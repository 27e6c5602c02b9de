"""Domain errors as IMAP answers: the one table of response codes (RFC 5530) and of what a client may read."""

from __future__ import annotations

from typing import Final

from wd_trio import errors

_TABLE: Final[tuple[tuple[type[errors.WdError], str, str], ...]] = (
    (errors.OverQuota, "OVERQUOTA", "Quota exceeded"),
    (errors.Limited, "LIMIT", "Too much for now, try again later"),
    (errors.Denied, "NOPERM", "Not allowed"),
    (errors.NotFound, "NONEXISTENT", "No such mailbox"),
    (errors.Conflict, "ALREADYEXISTS", "It exists already"),
    (errors.Invalid, "CANNOT", "Not possible"),
    (errors.Unavailable, "UNAVAILABLE", "Temporarily unavailable, try again later"),
)


def answer(error: errors.WdError) -> tuple[str, str]:
    """(response code, text) of the tagged NO for an expected failure."""
    for kind, code, text in _TABLE:
        if isinstance(error, kind):
            return code, text
    return "SERVERBUG", "Internal error"
