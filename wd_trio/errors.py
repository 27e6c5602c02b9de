"""What can go wrong, named by who is at fault.

Every layer raises these; nobody below the servers knows a wire code. The edges (servers/imap/errors.py,
servers/lmtp/errors.py, api/errors.py) turn each class into its protocol's code from one table. The text of
an exception is for the log: a client reads fixed texts only.
"""

from __future__ import annotations


class WdError(Exception):
    """The base of every expected failure; `what` names the thing concerned ("mailbox", "address", …)."""

    def __init__(self, message: str = "", *, what: str = "") -> None:
        super().__init__(message)
        self.what = what


class NotFound(WdError):
    """The caller named something that is not there."""


class Conflict(WdError):
    """It exists already, or it changed since the caller last looked."""


class Outdated(Conflict):
    """What the caller knows is older than the journal reaches: it must start anew."""


class Invalid(WdError):
    """The caller's input breaks a rule; asking again unchanged cannot help."""


class Denied(WdError):
    """Wrong credentials, or not allowed to do this."""


class OverQuota(WdError):
    """The account has no room for it."""


class Limited(WdError):
    """Too much for now: the same request may pass later."""


class Unavailable(WdError):
    """An engine is down, slow or overloaded: nobody's fault but ours, and it passes."""


class Uncertain(Unavailable):
    """The same for a write that may have been done for all that: nobody could say, in time."""
