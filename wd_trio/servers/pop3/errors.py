"""Domain errors as POP3 replies: the one table of response codes (RFC 2449 §8.1.1, RFC 3206) and fixed texts.

[AUTH] makes a client ask its user for another password, so only wrong credentials get it; [SYS/TEMP] makes it try
again later, [SYS/PERM] makes it show that something needs an administrator.
"""

from __future__ import annotations

from typing import Final

from wd_trio import errors
from wd_trio.proto.pop3.replies import err

_TABLE: Final[tuple[tuple[type[errors.WdError], bytes], ...]] = (
    (errors.Limited, err("Too much for now, try again later", "SYS/TEMP")),
    (errors.Denied, err("Wrong user name or password", "AUTH")),
    (errors.Conflict, err("Another session has the maildrop", "IN-USE")),
    (errors.Unavailable, err("Trouble on our side, try again later", "SYS/TEMP")),
    (errors.NotFound, err("There is no INBOX", "SYS/PERM")),
)
_OTHERWISE: Final = err("Trouble on our side", "SYS/PERM")


def error_reply(error: errors.WdError) -> bytes:
    """The reply for an expected failure."""
    for kind, reply in _TABLE:
        if isinstance(error, kind):
            return reply
    return _OTHERWISE
