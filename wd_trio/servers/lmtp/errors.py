"""Which LMTP reply each failure becomes: the one table (RFC 5321 §4.2, RFC 3463).

What is not listed is answered 451 4.3.0: the sending server keeps the message and tries again. Only what trying
again cannot help is permanent; after the dot, where RCPT has accepted the recipient already, that is a full mailbox
and a recipient who went meanwhile: a fault of our own never bounces mail. Texts are fixed.
"""

from __future__ import annotations

from typing import Final

from wd_trio import errors
from wd_trio.proto.lmtp.replies import reply

_TABLE: Final[tuple[tuple[type[errors.WdError], tuple[int, str, str]], ...]] = (
    (errors.NotFound, (550, "5.1.1", "No such mailbox here")),
    (errors.Denied, (550, "5.2.1", "The mailbox is disabled")),
    (errors.OverQuota, (552, "5.2.2", "The mailbox is full")),
    (errors.Invalid, (553, "5.1.3", "No valid address")),
    (errors.Limited, (451, "4.7.0", "Too much for now, try again later")),
)
_RECIPIENT: Final = frozenset({"address", "user"})  # what NotFound and Denied of a recipient are about
_OTHERWISE: Final = (451, "4.3.0", "Trouble on our side, try again later")


def error_reply(error: errors.WdError, suffix: str = "") -> bytes:
    """The reply to RCPT; `suffix` (ours) follows the text."""
    for kind, (code, enhanced, text) in _TABLE:
        if isinstance(error, kind):
            return reply(code, enhanced, text + suffix)
    code, enhanced, text = _OTHERWISE
    return reply(code, enhanced, text + suffix)


def data_reply(error: errors.WdError, suffix: str = "") -> bytes:
    """The reply after the dot for one recipient; `suffix` (ours) follows the text."""
    gone = isinstance(error, errors.NotFound | errors.Denied) and error.what in _RECIPIENT
    if gone or isinstance(error, errors.OverQuota):
        return error_reply(error, suffix)
    code, enhanced, text = _OTHERWISE
    return reply(code, enhanced, text + suffix)
